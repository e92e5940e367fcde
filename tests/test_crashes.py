"""Killed anywhere, the same command goes on: every row is answered once and nothing is paid twice."""

import os
import random
import signal
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from slow_server import BATCH, SlowServer
from turns import is_free, shard_states

import claude_pipeline as cp
from claude_pipeline.batches import CHUNK_BYTES

ROWS = 40
LIVES = range(6)
KILLS = 4


def echo(params):
    return params["messages"][-1]["content"]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pytest.fail("A worker was reaped before it was joined.")


@pytest.mark.parametrize(
    ("life", "each_ledger"),
    [*((life, "sqlite") for life in LIVES), *((life, "postgres") for life in LIVES[:1])],
    ids=[*range(len(LIVES)), "postgres"],
    indirect=["each_ledger"],
)
def test_a_run_killed_at_any_moment_is_finished_by_the_next(workers, tmp_path, life, each_ledger):
    source, out, life = tmp_path / "in.parquet", tmp_path / "out.parquet", random.Random(life)
    pq.write_table(pa.table({"text": [f"Prompt {life.randrange(ROWS)}" for _ in range(ROWS)]}), source)
    with cp.Sandbox(answer=echo, error_rates={"api_error": 0.05}, expire_rate=0.05, batch_seconds=0.05) as server:
        work = {"url": server.url, "store": str(tmp_path / "store"), "source": str(source), "out": str(out)}
        work |= {"max_batch_requests": 7, "max_queued_requests": 21, "max_attempts": 9, "ledger": each_ledger}
        for _ in range(KILLS):
            pid = workers.start(**work)
            time.sleep(life.uniform(0, 0.5))
            kill(pid)
            workers.join(pid)
        assert workers.join(workers.start(**work)) == 0
        usage = server.usage()
    table = pq.read_table(out)
    assert table["response"].to_pylist() == table["text"].to_pylist()
    assert usage["answers_billed_twice"] == 0
    assert usage["answers_billed"] == usage["distinct_requests"] == len(set(table["text"].to_pylist()))


def long_prompts():
    return pa.table({"text": [f"{row} " + "x" * 1_000_000 for row in range(20)]})


def test_the_intent_is_on_record_before_the_last_chunk_leaves(tmp_path, each_ledger):
    states = []

    def look(received, size):
        if received > size - (size % CHUNK_BYTES or CHUNK_BYTES):
            states.extend(state for state, _ in shard_states(tmp_path, each_ledger))

    with SlowServer(look) as server:
        threading.Thread(target=lambda: server.uploading.wait() and server.gate.set()).start()
        job = cp.submit(
            long_prompts(), prompt_column="text", model="m", max_tokens=1, store=tmp_path, base_url=server.url
        )
    assert server.received == server.size
    assert set(states) == {"submitting"}
    assert job.status().batches[0].batch_id == BATCH["id"]


@pytest.fixture
def uploading(workers, tmp_path, each_ledger):
    """Start a worker that hangs in the middle of an upload."""
    source = tmp_path / "in.parquet"
    pq.write_table(long_prompts(), source)
    with SlowServer() as server:
        work = {"url": server.url, "store": str(tmp_path / "store"), "source": str(source), "lease": 1.0}
        pid = workers.start(**work, does="leave", ledger=each_ledger)
        assert server.uploading.wait(60)
        assert shard_states(tmp_path / "store", each_ledger) == [("uploading", None)]
        yield server, pid


def finish(store, server):
    (status,) = cp.list_jobs(store=store)
    job = cp.open_job(status.job_id, store=store, base_url=server.url).wait(poll_interval=0)
    assert job.to_arrow()["response"].null_count == 0
    usage = server.usage()
    assert usage["requests_accepted"] == usage["distinct_requests"] == 20


def test_a_body_cut_short_is_no_batch_and_its_shard_is_sent_again(workers, uploading, tmp_path):
    slow, pid = uploading
    kill(pid)
    workers.join(pid)
    slow.gate.set()
    assert slow.done.wait(60)
    assert slow.received < slow.size
    with cp.Sandbox() as server:
        finish(tmp_path / "store", server)


def test_a_killed_owner_is_replaced_at_once_though_nobody_has_asked_how_it_ended(workers, uploading, tmp_path):
    _, pid = uploading
    kill(pid)
    with cp.Sandbox() as server:
        finish(tmp_path / "store", server)
    workers.join(pid)


def freeze(pid, store, ledger, *, lease):
    """Stop a process until its lease is over, at a moment when it holds no lock on the ledger."""
    os.kill(pid, signal.SIGSTOP)
    while not is_free(store, ledger, patience=0.1):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGSTOP)
    time.sleep(lease + 0.1)


def test_a_process_frozen_in_an_upload_past_its_lease_sends_nothing_when_it_wakes(
    workers, uploading, tmp_path, each_ledger
):
    slow, pid = uploading
    freeze(pid, tmp_path / "store", each_ledger, lease=1.0)
    with cp.Sandbox() as server:
        finish(tmp_path / "store", server)
        os.kill(pid, signal.SIGCONT)
        slow.gate.set()
        assert slow.done.wait(60)
        assert workers.join(pid) == 0
        assert slow.received < slow.size
        assert server.usage()["batches"] == 1


def test_a_process_frozen_in_planning_past_its_lease_plans_no_more_when_it_wakes(workers, tmp_path, each_ledger):
    source, out, store = tmp_path / "in.parquet", tmp_path / "out.parquet", tmp_path / "store"
    table = pa.table({"text": [f"Prompt {row % 700}" for row in range(900)]})
    pq.write_table(table, source)
    with cp.Sandbox(answer=echo) as server:
        work = {"url": server.url, "store": str(store), "source": str(source), "max_batch_requests": 7}
        pid = workers.start(**work, lease=0.5, out=str(out), ledger=each_ledger)
        while sum(status.counts.waiting for status in cp.list_jobs(store=store)) < 21:
            time.sleep(0.01)
        freeze(pid, store, each_ledger, lease=0.5)
        (status,) = cp.list_jobs(store=store)
        job = cp.open_job(status.job_id, store=store, base_url=server.url).wait(poll_interval=0)
        ended = job.status()
        os.kill(pid, signal.SIGCONT)
        assert workers.join(pid) == 0
        assert server.usage()["requests_accepted"] == 700
    assert (ended.requests, ended.duplicates, ended.reused) == (700, 200, 0)
    assert job.status() == ended
    assert pq.read_table(out)["response"].to_pylist() == table["text"].to_pylist()
