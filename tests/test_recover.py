"""A store that is lost: what was paid for in the last 29 days comes back from the API, and is not paid for again."""

import json
import sqlite3
from contextlib import closing
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recovering
from click.testing import CliRunner
from meddler import Answer, Meddler
from recovering import LONG, SETTLED, ask, assert_all_answered, assert_nothing_paid_twice, create_by_someone_else, echo

import claude_pipeline as cp
from claude_pipeline import batches
from claude_pipeline.cli import main
from claude_pipeline.store import Store

server, slow_server, folder = recovering.server, recovering.slow_server, recovering.folder

WILD = ["Ünï\u2028cödé 🎈\u0000\ufeff", "line\r\nbreak\u0085", '"\\{}', "\U0010ffff", " ", "{"]
TOOL = {"name": "label", "input_schema": {"type": "object", "properties": {"word": {"type": "string"}}}}


def lost(url, tmp_path, *, name="lost", **settings):
    """Answer a table with a store that nobody has any more."""
    return ask(url, tmp_path / name, **settings).wait(poll_interval=0)


def assert_sends_nothing(server, job):
    before = server.usage()["requests_accepted"]
    assert_all_answered(job().wait(poll_interval=0))
    assert server.usage()["requests_accepted"] == before


def test_an_empty_store_regains_everything_and_the_same_submit_sends_nothing(server, folder, tmp_path):
    before = lost(server.url, tmp_path, max_batch_requests=4)
    recovery = cp.recover(store=folder, base_url=server.url)
    assert (recovery.regained, len(recovery.batches), recovery.paid_twice) == (6, 2, 0)
    assert recovery.cost_usd == pytest.approx(before.status().cost_usd)
    for shard in Store(folder).ledger.shards(1):
        assert shard.collected_at == shard.ended_at  # the day on which it was paid
    assert cp.doctor(store=folder).findings == ()
    assert_sends_nothing(server, lambda: ask(server.url, folder, max_batch_requests=4))
    again = ask(server.url, folder).status()
    assert (again.reused, again.cost_usd, again.requests) == (6, 0.0, 0)


def test_a_store_whose_ledger_is_lost_pays_for_none_of_its_answers_again(server, folder, tmp_path):
    ask(server.url, folder).wait(poll_interval=0)
    before = server.usage()["requests_accepted"]
    (folder / "ledger.sqlite").rename(tmp_path / "backup")
    uses = [lambda: ask(server.url, folder), lambda: cp.list_jobs(store=folder), lambda: cp.doctor(store=folder)]
    for use in uses:
        with pytest.raises(cp.StoreError, match=r"has answers, but its ledger is missing.*backup.*recover"):
            use()
    assert not (folder / "ledger.sqlite").exists()
    (tmp_path / "backup").rename(folder / "ledger.sqlite")
    assert_all_answered(ask(server.url, folder))
    assert server.usage()["requests_accepted"] == before


def test_answers_that_call_tools_or_hold_any_text_are_regained_as_they_were(folder, tmp_path):
    def answer(params):
        if echo(params) == "call":
            return [{"type": "tool_use", "id": "toolu_1", "name": "label", "input": {"word": WILD[0]}}]
        return WILD[int(echo(params))]

    table = pa.table({"text": ["call", *map(str, range(len(WILD)))]})
    with cp.Sandbox(answer=answer) as server:
        asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16, "base_url": server.url}
        asked |= {"params": {"tools": [TOOL]}, "content": "json"}
        first = cp.submit(table, store=tmp_path / "lost", **asked).wait(poll_interval=0)
        cp.recover(store=folder, base_url=server.url)
        second = cp.submit(table, store=folder, **asked).wait(poll_interval=0)
        assert server.usage()["requests_accepted"] == 7
    free = [name for name in first.to_arrow().column_names if name != "cost_usd"]
    assert second.to_arrow().select(free) == first.to_arrow().select(free)
    assert second.to_arrow()["tool_input"][0].as_py() == {"word": WILD[0]}


def test_what_had_no_answer_is_asked_again_and_only_that(folder, tmp_path):
    fates = {"Prompt 1": "invalid_request_error", "Prompt 2": "expired", "Prompt 3": "canceled"}
    with cp.Sandbox(answer=echo, rows=lambda _id, params, _attempt: fates.get(echo(params))) as server:
        ask(server.url, tmp_path / "lost", max_attempts=1).advance()
        recovery = cp.recover(store=folder, base_url=server.url)
        assert (recovery.regained, recovery.batches[0].requests) == (3, 6)
        shown = cp.open_job(recovery.batches[0].job_id, store=folder)
        assert sorted(shown.to_arrow()["result_type"].to_pylist()) == ["canceled", "errored", "expired"] + 3 * [
            "succeeded"
        ]
        fates.clear()
        assert_all_answered(ask(server.url, folder).wait(poll_interval=0))
        assert server.usage()["requests_accepted"] == 6 + 3
        assert server.usage()["answers_billed_twice"] == 0


def test_a_batch_that_runs_on_is_left_until_it_has_ended(slow_server, folder, tmp_path):
    ask(slow_server.url, tmp_path / "lost", rows=3)
    slow_server.advance_clock(LONG)
    ask(slow_server.url, tmp_path / "lost")
    first = cp.recover(store=folder, base_url=slow_server.url)
    assert (first.regained, first.running) == (3, 1)
    slow_server.advance_clock(LONG)
    second = cp.recover(store=folder, base_url=slow_server.url)
    assert (second.regained, second.running, second.known) == (3, 0, 1)
    assert_sends_nothing(slow_server, lambda: ask(slow_server.url, folder))


def test_what_two_batches_answered_is_kept_once_and_counted_as_paid_twice(server, folder, tmp_path):
    lost(server.url, tmp_path, name="one", rows=3)
    lost(server.url, tmp_path, name="two", rows=5)
    for recovery in (
        cp.recover(store=folder, base_url=server.url, dry_run=True),
        cp.recover(store=folder, base_url=server.url),
    ):
        assert [(batch.answers, batch.regained, batch.paid_twice) for batch in recovery.batches] == [
            (3, 3, 0),
            (5, 2, 3),
        ]
        assert recovery.paid_twice_usd == pytest.approx(recovery.batches[0].cost_usd)
        assert "Paid twice: 3 answers" in str(recovery)
    jobs = cp.list_jobs(store=folder)
    assert sum(job.cost_usd for job in jobs) == pytest.approx(recovery.cost_usd)
    assert_sends_nothing(server, lambda: ask(server.url, folder, rows=5))


def test_what_was_just_recovered_is_not_old_however_long_ago_it_was_sent(server, folder, tmp_path):
    lost(server.url, tmp_path)
    begun = Store(folder).ledger.now()
    cp.recover(store=folder, base_url=server.url)
    (job,) = Store(folder).ledger.jobs()
    assert job.created_at < begun <= job.submitted_at
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE jobs SET created_at = created_at - 864000, ended_at = ended_at - 864000")
    assert cp.prune(older_than="7d", store=folder) == cp.Pruned()
    assert_sends_nothing(server, lambda: ask(server.url, folder))


def test_a_dry_run_records_nothing_and_makes_no_store(server, folder, tmp_path):
    lost(server.url, tmp_path)
    assert "Would regain 6 answers from 1 batch" in str(cp.recover(store=folder, base_url=server.url, dry_run=True))
    assert not folder.exists()


def test_batches_of_others_are_left_alone_after_their_first_line(server, folder):
    create_by_someone_else(server, requests=3)
    with Meddler(server.url) as meddler:
        uuids = [f"{n:08x}00004000a000{n:012x}" for n in range(4)]
        lines = "".join(json.dumps({"custom_id": each, "result": {"type": "canceled"}}) + "\n" for each in uuids)
        assert cp.recover(store=folder, base_url=meddler.url).strangers == 1
        create_by_someone_else(server, requests=4)
        meddler.meddle = lambda seen, _: Answer(200, lines.encode()) if seen.path.endswith("/results") else None
        recovery = cp.recover(store=folder, base_url=meddler.url)
    assert (recovery.strangers, recovery.batches, recovery.notes) == (2, (), ())
    assert cp.list_jobs(store=folder) == []


def test_every_page_of_batches_is_read(server, folder, tmp_path, monkeypatch):
    lost(server.url, tmp_path, rows=23, max_batch_requests=1)
    monkeypatch.setattr(batches, "_PAGE", 20)
    assert cp.recover(store=folder, base_url=server.url).regained == 23
    assert_sends_nothing(server, lambda: ask(server.url, folder, rows=23))


def test_a_store_that_has_some_of_it_regains_the_rest(server, folder, tmp_path):
    ask(server.url, folder, rows=2).wait(poll_interval=0)
    lost(server.url, tmp_path)
    recovery = cp.recover(store=folder, base_url=server.url)
    assert (recovery.known, recovery.regained, recovery.paid_twice) == (1, 4, 2)
    assert_sends_nothing(server, lambda: ask(server.url, folder))


def test_what_a_job_is_about_to_send_is_left_until_the_job_is_canceled(server, folder, tmp_path):
    server.fail_next("create", 429, retry_after=3600)
    job = ask(server.url, folder, rows=8)
    lost(server.url, tmp_path)
    (note,) = cp.recover(store=folder, base_url=server.url).notes
    assert f"answers requests that {job.job_id} is about to send. Cancel that job, run `recover` again" in note
    job.cancel()
    assert cp.recover(store=folder, base_url=server.url).regained == 6
    job.resume()
    assert_all_answered(job.wait(poll_interval=0))
    assert server.usage()["requests_accepted"] == 8
    assert_nothing_paid_twice(server)


def test_a_batch_whose_shard_is_to_be_sent_again_becomes_that_shards(server, folder):
    job = ask(server.url, folder)
    ledger = Store(folder).ledger
    (shard,) = ledger.own_shards(job.job_id)
    ledger.move(shard.shard, (shard.state,), state="planned", batch_id=None, not_before=1e12)
    recovery = cp.recover(store=folder, base_url=server.url)
    assert [(batch.job_id, batch.regained) for batch in recovery.batches] == [(job.job_id, 6)]
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_a_shard_in_doubt_finds_its_batch_before_anything_is_recovered(server, folder):
    server.fail_next("create", "drop_after")
    job = ask(server.url, folder)
    recovery = cp.recover(store=folder, base_url=server.url)
    assert (recovery.batches, recovery.known, recovery.notes) == ((), 1, ())
    assert_all_answered(job.wait(poll_interval=0))
    assert_nothing_paid_twice(server)


def test_lines_that_never_came_are_told_and_the_others_regained(slow_server, folder, tmp_path):
    ask(slow_server.url, tmp_path / "lost")
    slow_server.advance_clock(LONG)
    slow_server.fail_next("results", "missing_line", times=6)
    (note,) = cp.recover(store=folder, base_url=slow_server.url).notes
    assert "6 requests, but 1 line did not come. Run `recover` again." in note
    slow_server.advance_clock(SETTLED)
    recovery = cp.recover(store=folder, base_url=slow_server.url)
    assert recovery.regained == 5
    assert "1 line never came, and may have been billed" in recovery.notes[0]
    assert ask(slow_server.url, folder).status().requests == 1


def test_a_batch_that_another_process_records_meanwhile_is_left_to_it(server, folder, tmp_path):
    lost(server.url, tmp_path)
    with Meddler(server.url) as meddler:

        def be_faster(seen, _true):
            if seen.path.endswith("/results"):
                assert cp.recover(store=folder, base_url=server.url).regained == 6

        meddler.meddle = be_faster
        recovery = cp.recover(store=folder, base_url=meddler.url)
    assert (recovery.batches, recovery.known, recovery.notes) == ((), 1, ())
    assert_sends_nothing(server, lambda: ask(server.url, folder))


def test_a_recovered_job_cannot_be_asked_again(server, folder, tmp_path):
    lost(server.url, tmp_path)
    (batch,) = cp.recover(store=folder, base_url=server.url).batches
    job = cp.open_job(batch.job_id, store=folder, base_url=server.url)
    for asking in (job.resume, lambda: job.ask_again([0])):
        with pytest.raises(cp.InputError, match="Submit the table that it came from"):
            asking()
    out = job.write(tmp_path / "out.parquet")
    assert sorted(pq.read_table(out)["response"].to_pylist()) == [f"Prompt {row}" for row in range(6)]


def test_a_recovery_that_is_killed_anywhere_or_run_twice_at_once_is_completed_by_the_next(workers, folder, tmp_path):
    with cp.Sandbox(answer=echo) as server:
        lost(server.url, tmp_path, rows=4, max_batch_requests=2)
        work = {"url": server.url, "store": str(folder), "source": "", "does": "recover"}
        points = tmp_path / "points.json"
        assert workers.join(workers.start(**work | {"store": str(tmp_path / "seen")}, points=str(points))) == 0
        for number, store in zip(range(3, len(json.loads(points.read_text())), 8), count()):
            place = str(tmp_path / f"store{store}")
            assert workers.join(workers.start(**work | {"store": place}, strike_at=number)) != 0
            pair = [workers.start(**work | {"store": place}) for _ in range(2)]
            assert [workers.join(pid) for pid in pair] == [0, 0]
            assert sum(job.requests for job in cp.list_jobs(store=place)) == 4
            assert_sends_nothing(server, lambda place=place: ask(server.url, place, rows=4))


def test_the_command_says_what_was_regained(server, folder, tmp_path):
    lost(server.url, tmp_path)
    command = ["recover", "--store", str(folder), "--base-url", server.url]
    first = CliRunner().invoke(main, [*command, "--json"])
    told = json.loads(first.stdout)
    assert (first.exit_code, told["regained"], told["paid_twice"], len(told["batches"])) == (0, 6, 0, 1)
    second = CliRunner().invoke(main, command)
    assert (second.exit_code, second.stdout) == (0, "")
    assert "Nothing to regain" in second.stderr
