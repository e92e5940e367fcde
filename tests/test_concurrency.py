"""Eight processes on one store at once: each request is accepted once, whoever sends it."""

import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from meddler import Meddler

import claude_pipeline as cp
from claude_pipeline import planning
from claude_pipeline.store import Store

PROCESSES = 8
LEASE = 0.5


@pytest.fixture
def server() -> Iterator[cp.Sandbox]:
    with cp.Sandbox(answer=lambda params: params["messages"][-1]["content"], batch_seconds=0.2) as server:
        yield server


def table(*rows):
    return pa.table({"text": [f"Prompt {row}" for row in rows]})


def start(workers, url, folder: Path, rows, **settings):
    """Start a process for a table; return its number, and where it writes."""
    place = folder / uuid.uuid4().hex
    place.mkdir()
    source, out = place / "in.parquet", place / "out.parquet"
    pq.write_table(rows, source)
    work = {"url": url, "store": str(folder / "store"), "source": str(source), "out": str(out)}
    work["ledger"] = os.environ.get("CLAUDE_PIPELINE_LEDGER", "sqlite")
    return workers.start(**work, **settings), out


def join(workers, started):
    assert [workers.join(pid) for pid, _ in started] == [0] * len(started)
    return [pq.read_table(out) for _, out in started]


def run_all(workers, server, folder: Path, tables, **settings):
    return join(workers, [start(workers, server.url, folder, rows, **settings) for rows in tables])


def assert_all_answered(tables):
    for answered in tables:
        assert answered["response"].to_pylist() == answered["text"].to_pylist()


def assert_each_accepted_once(server, *, distinct):
    usage = server.usage()
    assert usage["distinct_requests"] == usage["requests_accepted"] == distinct


@pytest.mark.usefixtures("each_ledger")
@pytest.mark.parametrize("claimed", [1, 40, planning.CLAIMED_AT_ONCE])
def test_overlapping_tables_ask_each_request_once(workers, server, tmp_path, claimed):
    tables = [table(*range(first, first + 100)) for first in range(0, 50 * PROCESSES, 50)]
    settings = {"max_batch_requests": 25, "max_queued_requests": 100, "claimed": claimed}
    assert_all_answered(run_all(workers, server, tmp_path, tables, **settings))
    assert_each_accepted_once(server, distinct=50 * (PROCESSES + 1))


@pytest.mark.usefixtures("each_ledger")
def test_the_same_submit_by_several_processes_is_one_job(workers, server, tmp_path):
    same = table(*range(90), *range(30))
    assert_all_answered(run_all(workers, server, tmp_path, [same] * PROCESSES, max_batch_requests=11))
    assert len(cp.list_jobs(store=tmp_path / "store")) == 1
    assert_each_accepted_once(server, distinct=90)


def test_the_same_submit_by_several_processes_asks_again_once(workers, server, tmp_path):
    lengths = [*range(1, 60), *range(1, 60, 7)]  # 5 characters each, where 64 are allowed at first and 256 at last
    same = pa.table({"text": [f"{length:04}x" * length for length in lengths]})
    answered = run_all(workers, server, tmp_path, [same] * PROCESSES, max_batch_requests=9, on_truncated="retry")
    for rows in answered:
        assert rows["response"].to_pylist() == [text[:256] for text in rows["text"].to_pylist()]
    assert len(cp.list_jobs(store=tmp_path / "store")) == 1
    assert_each_accepted_once(server, distinct=59 + 47 + 34)
    assert sum(cost > 0 for cost in answered[0]["cost_usd"].to_pylist()) == 59


@pytest.mark.usefixtures("each_ledger")
def test_reversed_tables_end_in_two_whole_jobs(workers, server, tmp_path):
    tables = [table(*range(80)), table(*reversed(range(80)))]
    assert_all_answered(run_all(workers, server, tmp_path, tables, max_batch_requests=9))
    assert_each_accepted_once(server, distinct=80)


@pytest.mark.usefixtures("each_ledger")
@pytest.mark.parametrize(
    ("sent", "each_ledger"),
    [(2, "sqlite"), (5, "sqlite"), (11, "sqlite"), (23, "sqlite"), (5, "postgres")],
    indirect=["each_ledger"],
)
def test_one_of_eight_frozen_past_its_lease_sends_nothing_twice_when_it_wakes(workers, server, tmp_path, sent):
    settings = {"max_batch_requests": 6, "chunk": 300, "lease": LEASE}
    frozen = {"strike_at": sent, "strike_among": "after send", "strike_with": signal.SIGSTOP}
    first = start(workers, server.url, tmp_path, table(*range(80)), **settings, **frozen)
    assert workers.await_stop(first[0])
    tables = [table(*range(row, row + 20)) for row in range(0, 10 * (PROCESSES - 1), 10)]
    rest = [start(workers, server.url, tmp_path, rows, **settings) for rows in tables]
    assert_all_answered(join(workers, rest))
    os.kill(first[0], signal.SIGCONT)
    assert_all_answered(join(workers, [first]))
    assert_each_accepted_once(server, distinct=80)


@pytest.mark.usefixtures("each_ledger")
@pytest.mark.parametrize(
    ("commits", "each_ledger"),
    [(9, "sqlite"), (12, "sqlite"), (15, "sqlite"), (18, "sqlite"), (12, "postgres")],
    indirect=["each_ledger"],
)
def test_a_planner_that_dies_holds_nothing(workers, server, tmp_path, commits):
    settings = {"max_batch_requests": 3, "max_queued_requests": 12}
    killed = {"strike_at": commits, "strike_among": "before commit"}
    dead, _ = start(workers, server.url, tmp_path, table(*range(40)), **settings, **killed)
    assert workers.join(dead) == -signal.SIGKILL
    assert {status.state for status in cp.list_jobs(store=tmp_path / "store")} == {"planning"}
    assert_all_answered(run_all(workers, server, tmp_path, [table(*reversed(range(40)))], **settings))
    assert_each_accepted_once(server, distinct=40)


@pytest.mark.usefixtures("each_ledger")
@pytest.mark.parametrize(
    ("commits", "each_ledger"),
    [*((commit, "sqlite") for commit in range(7, 13)), (6, "postgres"), (8, "postgres")],
    indirect=["each_ledger"],
)
def test_a_planner_overtaken_at_any_commit_waits_for_what_another_asks(workers, server, tmp_path, commits):
    frozen = {"strike_at": commits, "strike_among": "after commit", "strike_with": signal.SIGSTOP}
    first = start(workers, server.url, tmp_path, table(*range(5)), lease=LEASE, **frozen)
    assert workers.await_stop(first[0])
    assert_all_answered(run_all(workers, server, tmp_path, [table(*reversed(range(5)))], lease=LEASE))
    os.kill(first[0], signal.SIGCONT)
    assert_all_answered(join(workers, [first]))
    assert_each_accepted_once(server, distinct=5)


@pytest.mark.usefixtures("each_ledger")
def test_one_of_eight_collects_a_batch(workers, server, tmp_path):
    same = table(*range(40))
    settings = {"max_batch_requests": 10}
    with Meddler(server.url) as between:
        join(workers, [start(workers, between.url, tmp_path, same, **settings) for _ in range(PROCESSES)])
        assert between.count("GET", "/results") == 4


def test_a_look_by_one_of_eight_serves_all(workers, tmp_path):
    poll = 0.4
    with cp.Sandbox(batch_seconds=4 * poll) as slow, Meddler(slow.url) as between:
        join(workers, [start(workers, between.url, tmp_path, table(0), poll=poll) for _ in range(PROCESSES)])
    looks = [seen.at for seen in between.seen if "limit=20" in seen.path]
    pauses = (looks[-1] - looks[0]) / poll
    assert len(looks) - PROCESSES <= 2 * pauses + 1 < PROCESSES * pauses


def test_one_cost_stands_on_the_row_that_paid(workers, server, tmp_path):
    tables = [table(*range(60))] * 2 + [table(*reversed(range(60)))] * 2
    answered = run_all(workers, server, tmp_path, tables, max_batch_requests=7)
    one_of_each = [answered[0], answered[2]]
    assert sum(cost > 0 for rows in one_of_each for cost in rows["cost_usd"].to_pylist()) == 60


@pytest.mark.usefixtures("each_ledger")
def test_a_new_store_may_be_opened_by_many_at_once(tmp_path, each_ledger, request):
    for attempt in range(5):
        url = "sqlite" if each_ledger == "sqlite" else request.getfixturevalue("postgres").new_database()
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(partial(Store, tmp_path / str(attempt)), [url] * 8))
        assert {store.ledger.account("same") for store in opened} == {1}


@pytest.mark.usefixtures("each_ledger")
def test_threads_may_advance_one_job_at_once(server, tmp_path):
    settings = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16, "max_batch_requests": 5}
    job = cp.submit(table(*range(40)), store=tmp_path, base_url=server.url, max_queued_requests=10, **settings)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: job.wait(poll_interval=0.01), range(4)))
    assert job.status().unanswered == 0
    assert_each_accepted_once(server, distinct=40)


@pytest.mark.usefixtures("each_ledger")
def test_canceling_and_advancing_at_once_breaks_nothing(server, tmp_path):
    settings = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16, "max_batch_requests": 2}
    job = cp.submit(table(*range(60)), store=tmp_path, base_url=server.url, max_queued_requests=4, **settings)
    jobs = [cp.open_job(job.job_id, store=tmp_path, base_url=server.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda opened: opened.cancel(), jobs[:2]))
        list(pool.map(lambda opened: opened.wait(poll_interval=0.01), jobs))
    assert job.status().state == "ended"
    assert server.usage()["answers_billed_twice"] == 0


@pytest.mark.usefixtures("each_ledger")
def test_a_job_that_starts_to_wait_keeps_a_shard_that_another_cancels(server, tmp_path):
    settings = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16}
    server.fail_next("create", 429, retry_after=3600)
    job = cp.submit(table(*range(9)), store=tmp_path, base_url=server.url, **settings)
    other = cp.submit(table(*reversed(range(9))), store=tmp_path, base_url=server.url, **settings)
    assert job.cancel().state == "ended"
    other.resume()
    other.wait(poll_interval=0)
    assert other.to_arrow()["response"].to_pylist() == other.to_arrow()["text"].to_pylist()
    assert_each_accepted_once(server, distinct=9)
