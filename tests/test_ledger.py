"""The ledger: compare-and-set, claims that are won or lost, leases, and transactions that are all or nothing."""

import json
import os
import sqlite3
import subprocess
import sys
from base64 import b64encode
from contextlib import closing
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_pipeline import ledger as ledger_module
from claude_pipeline.errors import StoreError
from claude_pipeline.forms import build_form
from claude_pipeline.leases import is_dead, new_owner
from claude_pipeline.migrations import SCHEMA_VERSION
from claude_pipeline.settings import Settings
from claude_pipeline.shards import Members
from claude_pipeline.store import Store

ME = new_owner()
SOMEONE = new_owner()


class NoSettings(msgspec.Struct):
    """A job of which only the record is looked at."""


@pytest.fixture
def open_ledger(each_ledger, tmp_path):
    """Open the ledger of one store, each time with a connection of its own."""
    return lambda: Store(tmp_path / "store", each_ledger).ledger


@pytest.fixture
def ledger(open_ledger):
    return open_ledger()


@pytest.fixture
def alter(request, each_ledger, tmp_path):
    """Run a statement on the ledger as a newer library, or an older one, would."""

    def run(sql):
        if each_ledger != "sqlite":
            server = request.getfixturevalue("postgres")
            server.execute(each_ledger.rpartition("/")[2], f"SET search_path TO claude_pipeline; {sql}")
            return
        with closing(sqlite3.connect(tmp_path / "store" / "ledger.sqlite")) as connection, connection:
            connection.execute(sql)

    return run


def add_job(ledger, job_id="job_a", *, account="sandbox"):
    ledger.add_job(job_id, account=ledger.account(account), name=None, settings=NoSettings(), rows=9)
    return ledger.job(job_id)


def members(*rows):
    addresses = b"".join(blake2b(bytes([row]), digest_size=16).digest() for row in rows)
    return Members(addresses, np.array(rows, dtype=np.int64))


def rows_won(ledger, job, *rows):
    (won,) = ledger.add_shards(job, [members(*rows)])
    return won.rows.tolist()


def add_shard(ledger, job, *rows):
    ledger.add_shards(job, [members(*rows)])
    return ledger.own_shards(job.job_id)[-1]


def claimants(ledger, job, *rows):
    """Say by which shard and at which position each row's request is claimed."""
    found = ledger.claims(job.account, members(*rows).split())
    claims = [found.get(address) for address in members(*rows).split()]
    return [claim and (claim.shard, claim.position) for claim in claims]


def dead_owner():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host, _, _, nonce = ME.split(" ")
    start = _start_time(child.pid)
    child.communicate(b"\n")
    return f"{host} {child.pid} {start} {nonce}"


def _start_time(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


# Accounts and jobs


def test_an_account_has_one_number_for_ever(ledger, open_ledger):
    first, second = ledger.account("wrkspc_1"), ledger.account("wrkspc_2")
    assert first != second
    again = open_ledger()
    assert (again.account("wrkspc_2"), again.account("wrkspc_1")) == (second, first)
    assert again.account_name(first) == "wrkspc_1"


def test_a_job_that_is_added_again_keeps_its_state(ledger):
    add_job(ledger)
    ledger.move_job("job_a", ("planning",), state="in_progress")
    assert add_job(ledger).state == "in_progress"


def test_a_job_moves_only_from_the_states_that_were_expected(ledger):
    add_job(ledger)
    assert not ledger.move_job("job_a", ("in_progress", "blocked"), state="ended")
    assert ledger.job("job_a").state == "planning"
    assert ledger.move_job("job_a", ("planning",), state="in_progress")
    assert not ledger.move_job("job_a", ("planning",), state="in_progress")


def test_a_job_that_nobody_added_is_none_and_cannot_move(ledger):
    assert ledger.job("job_z") is None
    assert not ledger.move_job("job_z", ("planning",), state="ended")
    assert not ledger.lease_job("job_z", owner=ME)


# Claims


def test_a_request_is_claimed_once_and_who_loses_learns_where(ledger):
    mine, theirs = add_job(ledger, "job_a"), add_job(ledger, "job_b")
    first = add_shard(ledger, mine, 1, 2, 3)
    (won,) = ledger.add_shards(theirs, [members(2, 4, 3, 5)])
    assert won.rows.tolist() == [4, 5]
    (second,) = ledger.own_shards("job_b")
    assert claimants(ledger, mine, 2, 3, 4, 5) == [
        (first.shard, 1),
        (first.shard, 2),
        (second.shard, 0),
        (second.shard, 1),
    ]
    assert second.requests == len(ledger.members(second.shard)) == 2


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_shards_are_claimed_together_and_each_request_has_its_own_place(ledger, monkeypatch, at_once):
    monkeypatch.setattr(ledger_module, "CLAIMS_A_STATEMENT", at_once)
    job = add_job(ledger)
    add_shard(ledger, add_job(ledger, "job_b"), 4)
    won = ledger.add_shards(job, [members(5, 1), members(4), members(3, 4, 2)])
    assert [some.rows.tolist() for some in won] == [[5, 1], [], [3, 2]]
    first, second = (shard.shard for shard in ledger.own_shards(job.job_id))
    assert claimants(ledger, job, 5, 1, 3, 2) == [(first, 0), (first, 1), (second, 0), (second, 1)]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_claims_are_looked_up_in_any_order_and_as_often_as_asked(ledger, monkeypatch, at_once):
    monkeypatch.setattr(ledger_module, "CLAIMS_A_STATEMENT", at_once)
    job = add_job(ledger)
    shard = add_shard(ledger, job, 3, 1, 2)
    ledger.fail(shard, members(3, 1, 2), {1: "expired"})
    claims = ledger.claims_on(job.account, members(2, 9, 1, 3, 2).as_array())
    here = shard.shard
    assert claims.shards.tolist() == [here, -1, here, here, here]
    assert claims.positions.tolist() == [2, -1, 1, 0, 2]
    assert claims.stand.tolist() == [True, False, False, True, True]


def test_a_shard_that_wins_nothing_is_none(ledger):
    add_shard(ledger, add_job(ledger, "job_a"), 1, 2)
    assert not any(ledger.add_shards(add_job(ledger, "job_b"), [members(2, 1)]))
    assert ledger.own_shards("job_b") == []
    assert ledger.awaited_shards("job_b") == []


def test_accounts_do_not_share_claims(ledger):
    add_shard(ledger, add_job(ledger, "job_a"), 1, 2)
    theirs = add_job(ledger, "job_b", account="another")
    assert rows_won(ledger, theirs, 1, 2) == [1, 2]


def test_a_request_without_an_answer_is_taken_over_and_leaves_the_tally(ledger):
    job = add_job(ledger)
    first = add_shard(ledger, job, 1, 2, 3)
    ledger.fail(first, members(1, 2, 3), {1: "expired"})
    ledger.move(first.shard, ("planned",), state="collected", succeeded=2, expired=1)
    assert rows_won(ledger, job, 1, 2) == [2]
    second = ledger.own_shards(job.job_id)[-1]
    assert claimants(ledger, job, 1, 2, 3) == [(first.shard, 0), (second.shard, 0), (first.shard, 2)]
    assert ledger.shard(first.shard).expired == 0


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 30), unique=True), max_size=6))
def test_however_tables_overlap_every_request_has_one_claim_at_its_place(tmp_path_factory, tables):
    ledger = Store(tmp_path_factory.mktemp("ledger"), "sqlite").ledger
    for number, rows in enumerate(filter(None, tables)):
        shards = [members(*sorted(rows)[at : at + 4]) for at in range(0, len(rows), 4)]
        won = ledger.add_shards(add_job(ledger, f"job_{number}"), shards)
        assert [len(some) for some in won if some] == [s.requests for s in ledger.own_shards(f"job_{number}")]
    for row in {row for rows in tables for row in rows}:
        account = ledger.account("sandbox")
        ((address, claim),) = ledger.claims(account, members(row).split()).items()
        assert ledger.members(claim.shard).address(claim.position) == address
    shards = ledger.shards(ledger.account("sandbox"), ("planned",))
    assert sum(shard.requests for shard in shards) == len({row for rows in tables for row in rows})


# Shards


def test_a_shard_moves_once_however_many_try(ledger, open_ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    others = [open_ledger() for _ in range(3)]
    assert [other.move(shard.shard, ("planned",), state="uploading") for other in others] == [True, False, False]


def test_a_shard_of_another_owner_does_not_move(ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    assert ledger.lease(shard, owner=ME, to="uploading")
    assert not ledger.move(shard.shard, ("uploading",), owned_by=SOMEONE, state="submitting")
    assert ledger.move(shard.shard, ("uploading",), owned_by=ME, state="submitting")


def test_a_batch_belongs_to_one_shard(ledger):
    job = add_job(ledger)
    first, second = add_shard(ledger, job, 1), add_shard(ledger, job, 2)
    ledger.move(first.shard, ("planned",), batch_id="msgbatch_1")
    with pytest.raises(StoreError, match=r"(?i)unique"):
        ledger.move(second.shard, ("planned",), batch_id="msgbatch_1")
    assert ledger.batch_ids() == {"msgbatch_1"}


def test_a_doubtful_shard_that_was_sent_anew_does_not_move_by_an_old_look(ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    ledger.move(shard.shard, ("planned",), state="submitting", submitting_at=1.0)
    old = ledger.shard(shard.shard)
    ledger.move(shard.shard, ("submitting",), submitting_at=2.0)
    assert not ledger.move_doubtful(old, state="planned")
    assert ledger.move_doubtful(ledger.shard(shard.shard), state="planned")
    assert not ledger.move_doubtful(replace(old, shard=99), state="planned")


def test_rows_that_are_asked_again_move_with_their_claims_and_waiters(ledger):
    job, other = add_job(ledger, "job_a"), add_job(ledger, "job_b")
    shard = add_shard(ledger, job, 1, 2, 3, 4)
    ledger.wait_for(other.job_id, [shard.shard])
    retry = ledger.split_off(shard, ledger.members(shard.shard), [1, 3], attempt=2)
    assert claimants(ledger, job, 1, 2, 3, 4) == [(shard.shard, 0), (retry, 0), (shard.shard, 2), (retry, 1)]
    assert ledger.members(retry).rows.tolist() == [2, 4]
    assert (ledger.shard(retry).attempt, ledger.shard(retry).state) == (2, "planned")
    assert {waiting.job_id for waiting in ledger.waiting_jobs(retry)} == {"job_a", "job_b"}


@pytest.mark.parametrize("count", [2, 3, 9])
def test_halves_hold_what_the_whole_held(ledger, count):
    job = add_job(ledger)
    shard = add_shard(ledger, job, *range(count))
    ledger.split(shard)
    low, high = ledger.own_shards(job.job_id)
    assert low.requests + high.requests == count
    held = [ledger.members(half.shard).rows.tolist() for half in (low, high)]
    assert held[0] + held[1] == list(range(count))
    places = [
        (half.shard, position) for half, rows in zip((low, high), held, strict=True) for position in range(len(rows))
    ]
    assert claimants(ledger, job, *range(count)) == places
    assert len(ledger.awaited_shards(job.job_id)) == 2


def test_a_shard_that_is_on_its_way_is_not_halved(ledger):
    job = add_job(ledger)
    shard = add_shard(ledger, job, 1, 2)
    ledger.lease(shard, owner=SOMEONE, to="uploading")
    ledger.split(shard)
    assert [shard.requests for shard in ledger.own_shards(job.job_id)] == [2]


def test_a_planned_shard_that_was_canceled_leaves_its_claims_to_others(ledger):
    job, other = add_job(ledger, "job_a"), add_job(ledger, "job_b")
    shard = add_shard(ledger, job, 1, 2)
    ledger.move_job(job.job_id, ("planning",), state="canceling")
    assert ledger.cancel_planned(shard.shard)
    assert not ledger.cancel_planned(shard.shard)
    assert not ledger.lease(shard, owner=ME, to="uploading")
    assert ledger.shard(shard.shard).canceled == 2
    taken = add_shard(ledger, other, 2, 3)
    assert claimants(ledger, job, 1, 2, 3) == [(shard.shard, 0), (taken.shard, 0), (taken.shard, 1)]


def test_a_shard_that_a_job_wants_or_that_left_is_not_canceled(ledger):
    job = add_job(ledger)
    shard = add_shard(ledger, job, 1)
    assert not ledger.cancel_planned(shard.shard)
    ledger.move_job(job.job_id, ("planning",), state="canceling")
    ledger.lease(shard, owner=ME, to="uploading")
    assert not ledger.cancel_planned(shard.shard)
    assert claimants(ledger, job, 1) == [(shard.shard, 0)]


def test_the_queue_counts_what_was_sent_and_has_not_ended(ledger):
    job = add_job(ledger)
    states = ("planned", "uploading", "submitting", "in_progress", "canceling", "ended", "collected")
    for number, state in enumerate(states):
        shard = add_shard(ledger, job, *range(10 * number, 10 * number + 2))
        ledger.move(shard.shard, ("planned",), state=state)
    assert ledger.queued_requests(job.account) == 8
    assert ledger.queued_requests(ledger.account("another")) == 0


# Leases


def test_a_lease_is_one_owners(ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    assert ledger.lease(shard, owner=ME, to="uploading")
    leased = ledger.shard(shard.shard)
    assert not ledger.lease(leased, owner=SOMEONE, to="uploading")
    assert not ledger.is_abandoned(leased)
    assert not ledger.renew(shard.shard, owner=SOMEONE)
    assert ledger.renew(shard.shard, owner=ME)


def test_a_lease_that_is_over_may_be_taken_and_is_not_renewed_by_its_old_owner(ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    ledger.lease(shard, owner=ME, to="uploading")
    ledger.move(shard.shard, ("uploading",), lease_until=ledger.now() - 1)
    assert ledger.lease(ledger.shard(shard.shard), owner=SOMEONE, to="uploading")
    assert not ledger.renew(shard.shard, owner=ME)


def test_a_shard_that_moved_on_is_not_leased_by_an_old_look(ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    ledger.move(shard.shard, ("planned",), state="in_progress")
    assert not ledger.lease(shard, owner=ME, to="uploading")


@pytest.mark.parametrize("change", [{"refusals": 1, "not_before": 9e9}, {"requests": 1}])
def test_a_shard_that_was_refused_or_halved_is_not_leased_by_an_old_look(ledger, change):
    shard = add_shard(ledger, add_job(ledger), 1, 2)
    ledger.move(shard.shard, ("planned",), **change)
    assert not ledger.lease(shard, owner=ME, to="uploading")
    assert ledger.lease(ledger.shard(shard.shard), owner=ME, to="uploading")


def test_planning_is_one_owners_and_is_not_renewed_once_it_was_taken_over(ledger):
    add_job(ledger)
    assert ledger.lease_job("job_a", owner=ME)
    assert not ledger.lease_job("job_a", owner=SOMEONE)
    ledger.move_job("job_a", ("planning",), lease_until=ledger.now() - 1)
    assert ledger.lease_job("job_a", owner=SOMEONE)
    assert not ledger.renew_job("job_a", owner=ME)
    assert ledger.renew_job("job_a", owner=SOMEONE)
    assert ledger.job("job_a").owner == SOMEONE


def test_a_dead_owner_of_this_host_is_replaced_at_once(ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    ledger.lease(shard, owner=dead_owner(), to="uploading")
    assert ledger.is_abandoned(ledger.shard(shard.shard))
    assert ledger.lease(ledger.shard(shard.shard), owner=ME, to="uploading")


def test_an_owner_of_another_host_lives_until_its_lease_is_over(ledger):
    elsewhere = " ".join(["another-host", *dead_owner().split(" ")[1:]])
    assert not is_dead(elsewhere)
    shard = add_shard(ledger, add_job(ledger), 1)
    ledger.lease(shard, owner=elsewhere, to="uploading")
    assert not ledger.is_abandoned(ledger.shard(shard.shard))


def test_a_process_with_the_number_of_a_dead_owner_is_not_that_owner():
    host, pid, start, nonce = ME.split(" ")
    assert not is_dead(ME)
    assert is_dead(f"{host} {pid} {int(start) - 1} {nonce}")


def test_a_killed_process_is_dead_before_anybody_asked_how_it_ended():
    child = os.fork()
    if not child:
        os._exit(0)
    host, _, _, nonce = ME.split(" ")
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert is_dead(f"{host} {child} {_start_time(child)} {nonce}")
    os.waitpid(child, 0)


def test_an_owner_in_another_container_of_this_host_lives_until_its_lease_is_over():
    host, *rest = dead_owner().split(" ")
    boot, _, container = host.rpartition("-")
    assert is_dead(" ".join([host, *rest]))
    assert not is_dead(" ".join([f"{boot}-{int(container) + 1}", *rest]))


def test_a_shard_whose_owner_died_in_the_upload_is_taken_back_once(ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    ledger.lease(shard, owner=dead_owner(), to="uploading")
    old = ledger.shard(shard.shard)
    assert ledger.take_back(old)
    assert ledger.lease(ledger.shard(shard.shard), owner=ME, to="uploading")
    assert not ledger.take_back(old)
    assert ledger.shard(shard.shard).owner == ME


def test_a_poll_by_anybody_serves_everybody_for_a_while(ledger, open_ledger):
    account, another = ledger.account("sandbox"), open_ledger()
    assert ledger.begin_poll(account, unless_within=60)
    assert not another.begin_poll(account, unless_within=60)
    assert another.begin_poll(another.account("other"), unless_within=60)
    assert another.begin_poll(account, unless_within=0)


# Transactions and versions


def test_a_transaction_in_another_is_a_part_of_it(ledger):
    job = add_job(ledger)

    def fail_after_writing():
        with ledger.transaction():
            add_shard(ledger, job, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_after_writing()
    assert ledger.own_shards(job.job_id) == []
    assert claimants(ledger, job, 1) == [None]
    assert add_shard(ledger, job, 1).requests == 1


def test_a_store_of_a_newer_version_is_refused_with_the_way_out(ledger, open_ledger, alter):
    alter(f"UPDATE meta SET value = '{SCHEMA_VERSION + 1}' WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match=f"newer claude-pipeline.*schema {SCHEMA_VERSION + 1}.*Upgrade"):
        open_ledger()
    assert ledger.jobs() == []


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(StoreError, match="Cannot use the ledger"):
        Store(tmp_path)


def test_the_clock_is_the_databases(ledger, open_ledger):
    first = ledger.now()
    assert first <= open_ledger().now()
    assert first > 1_700_000_000


MODEL = {"model": "claude-haiku-4-5", "max_tokens": 9}
FIRST_SETTINGS = {
    "label": "x",
    "form": {
        "template": {"texts": ["Hi ", ""], "fields": ["a"]},
        "header": b64encode('[[],"é"]\n'.encode()).decode(),
        "prefix": b64encode(
            b'{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":'
        ).decode(),
        "suffix": b64encode(b"}]}").decode(),
    },
    "model": "claude-haiku-4-5",
    "id_column": None,
    "prefix": "",
    "base_url": None,
    "limits": {
        "max_batch_requests": 100_000,
        "max_batch_bytes": 256_000_000,
        "max_queued_requests": 200_000,
        "max_attempts": 3,
    },
}


LATER_COLUMNS_OF_SHARDS = (
    *("cache_read_tokens", "cache_write_tokens", "cache_saved_usd", "reserved_usd", "stream_id"),
    *("asking", "truncated", "refused", "paused", "misfits"),
    *("collected_at", "pruned_at", "deleted_at"),
)


def test_a_store_of_the_first_schema_is_brought_to_this_one_with_all_that_it_holds(tmp_path):
    path = tmp_path / "ledger.sqlite"
    ledger = Store(tmp_path).ledger
    job = add_job(ledger)
    add_shard(ledger, job, 1, 2, 3)
    del ledger
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE shard_models")
        connection.execute("ALTER TABLE accounts DROP COLUMN polled_at")
        connection.execute("ALTER TABLE shards DROP COLUMN missing_from")
        connection.execute("ALTER TABLE shards DROP COLUMN api_ahead")
        for column in LATER_COLUMNS_OF_SHARDS:
            connection.execute(f"ALTER TABLE shards DROP COLUMN {column}")
        for column in (
            "refusals",
            "asking",
            "submitted_by",
            "submitted_from",
            "traceparent",
            "announced_at",
            "pruned_at",
        ):
            connection.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        connection.execute("UPDATE jobs SET settings = ?", (json.dumps(FIRST_SETTINGS),))
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
    connection.close()
    for _ in range(2):
        migrated = Store(tmp_path).ledger
        assert [shard.requests for shard in migrated.own_shards(job.job_id)] == [3]
        (kept,) = migrated.jobs()
        assert replace(kept, settings="") == replace(job, settings="")
        form = build_form(pa.schema({"a": pa.string()}), source="x", template="Hi {a}", salt="é", **MODEL)
        assert Settings.of(kept).form == form
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == (
            str(SCHEMA_VERSION),
        )
        assert connection.execute("SELECT polled_at FROM accounts").fetchall() == [(0.0,)]
    connection.close()


def test_a_doubtful_shard_is_not_taken_from_an_owner_who_has_renewed_since_it_was_looked_at(ledger):
    shard = add_shard(ledger, add_job(ledger), 1)
    owner = new_owner()
    assert ledger.lease(shard, owner=owner, to="uploading")
    ledger.move(shard.shard, ("uploading",), state="submitting", submitting_at=1.0, lease_until=0.0)
    seen = ledger.shard(shard.shard)
    assert ledger.is_abandoned(seen)
    assert ledger.renew(shard.shard, owner=owner)
    assert not ledger.move_doubtful(seen, state="planned", owner=None)
    assert ledger.shard(shard.shard).state == "submitting"


def test_a_look_noted_by_a_clock_that_was_fast_keeps_nobody_from_looking(ledger, alter):
    account = ledger.account("sandbox")
    alter(f"UPDATE accounts SET polled_at = {ledger.now() + 3600}")
    assert ledger.begin_poll(account, unless_within=30)
    assert not ledger.begin_poll(account, unless_within=30)
    assert ledger.begin_poll(account, unless_within=0)
