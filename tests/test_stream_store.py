"""Streams and batches share one store: nothing is paid for twice, whoever is killed."""

import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import submit_to
from streams import OLD, asked_messages, echo, stream_from

import claude_pipeline as cp
from claude_pipeline.journal import end_stream
from claude_pipeline.store import Store

PROMPTS = [f"prompt {number}" for number in range(6)]


@pytest.fixture
def sandbox():
    with cp.Sandbox(answer=echo) as server:
        yield server


def accepted(server):
    return server.usage()["requests_accepted"]


def test_a_batch_pays_for_no_answer_that_was_streamed(sandbox, store):
    list(stream_from(sandbox, PROMPTS[:4], store=store))
    job = submit_to(sandbox, PROMPTS, store=store).wait(poll_interval=0)
    assert job.to_arrow()["response"].to_pylist() == PROMPTS
    assert accepted(sandbox) == 2
    assert job.status().reused == 4
    assert job.to_arrow()["cost_usd"].to_pylist()[:4] == [0.0] * 4


@pytest.mark.usefixtures("each_ledger")
def test_a_stream_pays_for_no_answer_of_a_batch(sandbox, store):
    submit_to(sandbox, PROMPTS[:4], store=store).wait(poll_interval=0)
    rows = list(stream_from(sandbox, PROMPTS, store=store, in_order=True))
    assert [row.response for row in rows] == PROMPTS
    assert [row.cost_usd for row in rows[:4]] == [0.0] * 4
    assert all(row.batch_id.startswith("msgbatch_") for row in rows[:4])
    assert len(asked_messages(sandbox)) == 2


def test_a_row_that_a_batch_is_asking_comes_as_in_progress_and_is_asked_only_with_a_salt(store):
    with cp.Sandbox(answer=echo, batch_seconds=3600) as server:
        batch = submit_to(server, PROMPTS[:2], store=store)
        with stream_from(server, PROMPTS[:3], store=store, in_order=True) as stream:
            rows = list(stream)
        (status,) = batch.status().batches
        assert [row.is_in_progress for row in rows] == [True, True, False]
        assert [row.batch_id for row in rows] == [status.batch_id, status.batch_id, None]
        assert rows[0].input == {"text": PROMPTS[0]}
        assert len(asked_messages(server)) == 1
        assert [row.response for row in stream_from(server, PROMPTS[:1], store=store, salt="again")] == PROMPTS[:1]
        server.advance_clock(3600)
        batch.wait(poll_interval=0)
        assert stream.job.to_arrow()["response"].to_pylist() == PROMPTS[:3]


def test_a_batch_that_a_stream_overlaps_can_still_be_canceled(store):
    with cp.Sandbox(answer=echo, batch_seconds=3600) as server:
        batch = submit_to(server, PROMPTS[:2], store=store)
        list(stream_from(server, PROMPTS[:3], store=store))
        batch.cancel()
        assert batch.wait(poll_interval=0).status().counts.canceled == 2


def test_an_estimate_learns_from_streamed_answers_and_counts_them_as_free(sandbox, store):
    asked = {"prompt_column": "text", "model": OLD, "max_tokens": 64, "store": store, "base_url": sandbox.url}
    list(stream_from(sandbox, PROMPTS[:4], store=store))
    found = cp.estimate(pa.table({"text": PROMPTS}), **asked)
    assert (found.answered, found.to_send, found.learned_from) == (4, 2, 4)


def test_another_account_reuses_nothing_that_was_streamed(sandbox, store):
    list(stream_from(sandbox, ["a"], store=store))
    with cp.Sandbox(answer=echo, workspace="theirs") as theirs:
        list(stream_from(theirs, ["a"], store=store))
        assert len(asked_messages(theirs)) == 1


STREAM = """
import sys
import claude_pipeline as cp

source, store, url, most = sys.argv[1:]
rows = cp.stream(source, prompt_column="text", model="claude-haiku-4-5", max_tokens=4000, store=store, base_url=url,
                 max_concurrency=int(most), on_text=lambda row, text: print("text", row, flush=True))
for row in rows:
    print("row", row.row, flush=True)
"""


@pytest.fixture
def streaming(store, tmp_path):
    """Start a process that streams prompts from a server, and read what it says."""
    processes = []

    def start(server, prompts, most=1):
        pq.write_table(pa.table({"text": prompts}), tmp_path / "in.parquet")
        words = [sys.executable, "-c", STREAM, str(tmp_path / "in.parquet"), str(store), server.url, str(most)]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(process, line):
    for said in process.stdout:
        if said.strip() == line:
            return
    pytest.fail(process.stderr.read())


def test_a_killed_run_loses_no_answer_and_leaves_no_claim_behind(store, streaming):
    with cp.Sandbox(answer=echo, tokens_per_second=100) as server:
        prompts = ["one", "two", "long " * 400, "four"]
        process = streaming(server, prompts)
        wait_for(process, "row 1")
        wait_for(process, "text 2")
        process.send_signal(signal.SIGKILL)
        process.wait()
        job = submit_to(server, prompts, store=store, max_tokens=4000).wait(poll_interval=0)
        assert job.to_arrow()["response"].to_pylist() == prompts
        assert accepted(server) == 2
        streamed = next(status for status in cp.list_jobs(store=store) if status.job_id != job.job_id)
        assert (streamed.state, streamed.counts.succeeded, streamed.counts.canceled) == ("ended", 2, 2)
        assert not list((store / "results").glob("*.jsonl"))


def test_who_ends_a_killed_run_that_another_has_just_ended_takes_no_answer_from_it(store, streaming):
    with cp.Sandbox(answer=echo, tokens_per_second=100) as server:
        process = streaming(server, ["one", "long " * 400])
        wait_for(process, "text 1")
        process.send_signal(signal.SIGKILL)
        process.wait()
        opened = Store(store)
        (shard,) = opened.ledger.shards(1, ("streaming",))  # as both of them saw it
        end_stream(opened, shard)
        end_stream(opened, shard)
        (status,) = cp.list_jobs(store=store)
        assert cp.open_job(status.job_id, store=store).to_arrow()["response"].to_pylist() == ["one", None]


def test_a_killed_run_is_gone_on_with_by_the_same_call(store, streaming, tmp_path):
    with cp.Sandbox(answer=echo, tokens_per_second=100) as server:
        prompts = ["one", "two", "long " * 300]
        process = streaming(server, prompts)
        wait_for(process, "text 2")
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows = list(stream_from(server, str(tmp_path / "in.parquet"), store=store, max_tokens=4000, in_order=True))
        assert [row.response for row in rows] == prompts
        assert [row.cost_usd > 0 for row in rows] == [False, False, True]


def test_ctrl_c_closes_the_open_streams_and_keeps_what_is_complete(store, streaming):
    with cp.Sandbox(answer=echo, tokens_per_second=20) as server:
        process = streaming(server, ["one", "long " * 3000], most=2)
        wait_for(process, "row 0")
        wait_for(process, "text 1")
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, err = process.communicate()
        assert "KeyboardInterrupt" in err
        assert time.monotonic() - begun < 30
        (status,) = cp.list_jobs(store=store)
        assert (status.state, status.counts.succeeded, status.counts.canceled) == ("ended", 1, 1)


def test_a_torn_last_line_of_a_journal_is_no_answer(store, streaming):
    with cp.Sandbox(answer=echo, tokens_per_second=100) as server:
        process = streaming(server, ["one", "long " * 400])
        wait_for(process, "text 1")
        process.send_signal(signal.SIGKILL)
        process.wait()
        (journal,) = (store / "results").glob("*.jsonl")
        with journal.open("ab") as file:
            file.write(b'{"custom_id":"00')
        cp.advance(store=store, base_url=server.url)
        (status,) = cp.list_jobs(store=store)
        assert (status.state, status.counts.succeeded, status.counts.canceled) == ("ended", 1, 1)


@pytest.mark.usefixtures("each_ledger")
def test_two_runs_at_once_ask_each_request_once(store, streaming, tmp_path):
    with cp.Sandbox(answer=echo, tokens_per_second=100) as server:
        prompts = ["long " * 200, "other " * 200]
        process = streaming(server, prompts, most=2)
        wait_for(process, "text 1")
        rows = list(stream_from(server, str(tmp_path / "in.parquet"), store=store, max_tokens=4000))
        assert [row.is_in_progress for row in rows] == [True, True]
        _, err = process.communicate()
        assert process.returncode == 0, err
        assert len(asked_messages(server)) == 2
        again = stream_from(server, str(tmp_path / "in.parquet"), store=store, max_tokens=4000, in_order=True)
        assert [row.response for row in again] == prompts
        assert len(asked_messages(server)) == 2


def test_a_batch_that_waits_for_a_stream_asks_itself_what_the_stream_leaves(store, streaming):
    with cp.Sandbox(answer=echo, tokens_per_second=100) as server:
        prompts = ["one", "long " * 2000]
        process = streaming(server, prompts)
        wait_for(process, "text 1")
        job = submit_to(server, prompts, store=store, max_tokens=4000)
        assert job.status().state == "in_progress"
        assert accepted(server) == 0
        process.send_signal(signal.SIGINT)
        process.communicate()
        job.wait(poll_interval=0)
        assert job.to_arrow()["response"].to_pylist() == prompts
        assert accepted(server) == 1


def test_a_job_that_was_begun_and_never_streamed_is_sent_as_a_batch_by_nobody(sandbox, store):
    stream = stream_from(sandbox, PROMPTS, store=store)
    (status,) = cp.advance(store=store, base_url=sandbox.url)
    assert (status.state, status.unanswered) == ("ended", len(PROMPTS))
    assert accepted(sandbox) == 0
    assert [row.response for row in stream if row.response == PROMPTS[0]] == PROMPTS[:1]


# Budgets


def test_what_is_sure_to_cost_more_than_it_may_is_refused_before_anything_is_asked(sandbox, store):
    with pytest.raises(cp.InputError, match=r"expected to cost .* left of max_cost_usd"):
        stream_from(sandbox, PROMPTS, store=store, max_cost_usd=1e-7)
    assert asked_messages(sandbox) == []


def test_rows_that_there_is_no_room_for_are_not_asked_and_say_so(sandbox, store):
    one = 64 * 5 / 1e6  # dollars that the longest answer costs at list price
    rows = list(stream_from(sandbox, PROMPTS, store=store, max_cost_usd=one * 3.5, max_tokens=64, in_order=True))
    over = [row for row in rows if row.error_type == "over_budget"]
    spent = sum(row.cost_usd for row in rows)
    assert spent <= one * 3.5
    assert not over or "left" in over[0].error_message
    assert len(asked_messages(sandbox)) == len(PROMPTS) - len(over)


def test_a_budget_lets_one_row_after_the_other_when_each_turns_out_cheap(sandbox, store):
    half = len(PROMPTS) / 2 * (64 * 5) / 1e6  # what all rows are expected to cost, of the most that they can
    rows = list(stream_from(sandbox, PROMPTS, store=store, max_cost_usd=half * 1.2, max_tokens=64))
    assert [row.error_type for row in rows] == [None] * len(PROMPTS)


@pytest.mark.usefixtures("each_ledger")
def test_the_budget_of_the_store_holds_for_streams(sandbox, store):
    cp.set_budget(1e-9, store=store)
    with pytest.raises(cp.InputError, match="the budget of the store"):
        stream_from(sandbox, PROMPTS, store=store)


def test_a_stream_reserves_what_it_may_cost(store):
    with cp.Sandbox(answer=echo, tokens_per_second=5) as server:
        cp.set_budget(1.0, store=store)
        stream = stream_from(server, ["one", "long " * 100], store=store, max_tokens=500)
        assert next(stream).response == "one"
        ledger = Store(store).ledger
        (account,) = {job.account for job in ledger.jobs()}
        (shard,) = ledger.shards(account)
        assert shard.reserved_usd > 2 * 500 * 5 / 1e6
        stream.close()
        assert ledger.shards(account)[0].cost_usd < shard.reserved_usd


def test_the_lease_of_a_run_is_of_this_process(sandbox, store):
    stream = stream_from(sandbox, PROMPTS, store=store)
    next(stream)
    ledger = Store(store).ledger
    (account,) = {job.account for job in ledger.jobs()}
    (shard,) = ledger.shards(account)
    assert shard.state == "streaming"
    assert f" {os.getpid()} " in shard.owner
    stream.close()
