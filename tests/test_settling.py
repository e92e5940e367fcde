"""A create call whose answer was lost: its batch is found by what it answers, or sent again, and never paid twice."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
import recovering
from meddler import Answer, Meddler
from recovering import (
    LONG,
    SETTLED,
    ask,
    assert_all_answered,
    assert_nothing_paid_twice,
    create_by_someone_else,
    delete,
    shards_of,
)

import claude_pipeline as cp
from claude_pipeline import settling
from claude_pipeline.batches import BatchesApi
from claude_pipeline.store import Store
from claude_pipeline.transport import make_client

server, slow_server, folder, no_grace = (
    recovering.server,
    recovering.slow_server,
    recovering.folder,
    recovering.no_grace,
)


@pytest.mark.usefixtures("each_ledger")
def test_a_batch_whose_create_was_answered_into_the_void_is_adopted(server, folder):
    server.fail_next("create", "drop_after")
    job = ask(server.url, folder)
    assert job.status().state == "in_progress"
    assert "answer to a create call was lost" in job.status().reason
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert server.usage()["batches"] == 1
    assert_nothing_paid_twice(server)


@pytest.mark.usefixtures("no_grace")
def test_a_batch_that_may_be_ours_is_waited_for_by_name_however_long_it_runs(slow_server, folder):
    slow_server.fail_next("create", "drop_after")
    job = ask(slow_server.url, folder)
    (ours,) = {request.batch_id for request in slow_server.requests()}
    assert ours in job.advance().reason
    assert ours in job.advance().reason
    slow_server.advance_clock(LONG)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(slow_server)


def test_a_create_that_never_arrived_is_not_repeated_within_the_grace(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    for _ in range(3):
        assert "answer to a create call was lost" in job.advance().reason
    assert server.usage()["batches"] == 0


@pytest.mark.usefixtures("each_ledger")
@pytest.mark.usefixtures("no_grace")
def test_a_create_that_never_arrived_is_sent_again_after_the_grace(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


@pytest.mark.parametrize("hours", [-30, 1])
def test_a_lost_batch_is_adopted_whatever_the_clock_of_this_host_says(server, folder, hours):
    server.set_clock(datetime.now(UTC) + timedelta(hours=hours))
    server.fail_next("create", "drop_after")
    job = ask(server.url, folder)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


@pytest.mark.usefixtures("no_grace")
def test_a_stranger_of_the_same_size_is_not_adopted(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    theirs = create_by_someone_else(server, requests=6)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert theirs not in {batch.batch_id for batch in job.status().batches}
    assert_nothing_paid_twice(server)


@pytest.mark.usefixtures("each_ledger")
def test_of_several_lost_batches_each_shard_adopts_its_own(server, folder):
    server.fail_next("create", "drop_after", times=3)
    job = ask(server.url, folder, rows=9, max_batch_requests=3)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert server.usage()["batches"] == 3
    assert_nothing_paid_twice(server)


def test_a_lost_batch_is_adopted_when_the_newest_batch_before_it_was_deleted(server, folder):
    earlier = create_by_someone_else(server, requests=2)
    server.fail_next("create", "drop_after")
    job = ask(server.url, folder)
    delete(server, earlier)
    job.wait(poll_interval=0)
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


def test_the_store_of_a_killed_process_says_what_its_job_waits_for(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    (shard,) = shards_of(folder, job)
    Store(folder).ledger.move(shard.shard, ("submitting",), reason=None, owner="another-boot 1 1 x", lease_until=0)
    assert "create call" in job.advance().reason


def test_a_canceled_job_settles_its_lost_batch_and_cancels_it(slow_server, folder):
    slow_server.fail_next("create", "drop_after")
    job = ask(slow_server.url, folder)
    assert job.cancel().state == "canceling"
    slow_server.advance_clock(LONG)
    while job.advance().state != "ended":
        assert slow_server.usage()["batches"] == 1
    assert_nothing_paid_twice(slow_server)


@pytest.mark.usefixtures("each_ledger")
@pytest.mark.usefixtures("no_grace")
def test_who_settles_from_an_old_look_leaves_a_new_upload_alone(server, folder):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder)
    ledger = Store(folder).ledger
    (old,) = shards_of(folder, job)
    ledger.move(old.shard, ("submitting",), state="planned")
    (planned,) = shards_of(folder, job)
    me = job._session.owner
    assert ledger.lease(planned, owner=me, to="uploading")
    ledger.move(old.shard, ("uploading",), state="submitting", submitting_at=ledger.now())
    settling.settle(Store(folder), BatchesApi(make_client(server.url)), old)
    (new,) = shards_of(folder, job)
    assert (new.state, new.owner) == ("submitting", me)


@pytest.mark.usefixtures("no_grace")
def test_a_lost_batch_whose_results_arrive_spoiled_is_not_taken_for_a_stranger(server, folder):
    server.fail_next("create", "drop_after")
    server.fail_next("results", "missing_line")
    job = ask(server.url, folder)
    assert "may be the one whose create call was lost" in job.advance().reason
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


@pytest.mark.usefixtures("no_grace")
def test_a_batch_of_another_store_that_shares_half_of_the_prompts_is_not_adopted(server, folder, tmp_path):
    server.fail_next("create", "drop_before")
    job = ask(server.url, folder, rows=6)
    half = pa.table({"text": [f"Prompt {row}" for row in range(3, 9)]})
    settings = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16}
    theirs = cp.submit(half, store=tmp_path / "other", base_url=server.url, **settings)
    assert_all_answered(theirs.wait(poll_interval=0))
    assert_all_answered(job.wait(poll_interval=0))
    assert server.usage()["batches"] == 2


@pytest.mark.usefixtures("no_grace")
def test_a_lost_batch_that_lacks_a_line_is_adopted_once_none_can_come_late_and_asks_it_again(server, folder):
    server.fail_next("create", "drop_after")
    server.fail_next("results", "missing_line", times=5)
    job = ask(server.url, folder)
    assert "may be the one whose create call was lost" in job.advance().reason
    server.advance_clock(SETTLED)
    assert_all_answered(job.wait(poll_interval=0))
    assert sorted(job.to_arrow()["attempts"].to_pylist()) == [1] * 5 + [2]
    assert server.usage()["requests_accepted"] == 7


def test_a_candidate_that_cannot_be_judged_hides_no_other(server, folder):
    server.fail_next("create", "drop_after")
    with Meddler(server.url) as meddler:
        job = ask(meddler.url, folder)
        theirs = create_by_someone_else(server, requests=6)
        refused = Answer(500, b"{}")
        meddler.meddle = lambda seen, _: refused if seen.path.endswith(f"{theirs}/results") else None
        assert job.advance().state == "ended"
    assert_all_answered(job)
    assert_nothing_paid_twice(server)


def test_what_may_be_answered_and_can_be_proved_no_more_is_sent_again_only_by_resume_whoever_asks(server, folder):
    server.fail_next("create", "drop_after")
    first = ask(server.url, folder)
    server.advance_clock(30 * 24 * 3600)
    assert first.advance().state == "blocked"
    second = ask(server.url, folder, rows=4, name="second")
    for job in (first, second):
        assert job.advance().state == "blocked"
        assert "which may be it. `resume` sends its 6 requests again." in job.status().reason
    assert server.usage()["requests_accepted"] == 6
    second.resume()
    assert_all_answered(second.wait(poll_interval=0))
    first.resume()
    assert_all_answered(first.wait(poll_interval=0))
    assert server.usage()["requests_accepted"] == 12
