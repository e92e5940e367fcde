"""Several processes on one store at once: each request is accepted once, whoever sends it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forking import Workers

import claude_pipeline as cp
from claude_pipeline.store import Store

PROCESSES = 4


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


@pytest.fixture
def server() -> Iterator[cp.Sandbox]:
    with cp.Sandbox(answer=lambda params: params["messages"][-1]["content"], batch_seconds=0.2) as server:
        yield server


def table(*rows):
    return pa.table({"text": [f"Prompt {row}" for row in rows]})


def run_all(workers, server, folder: Path, tables, **settings):
    started = []
    for number, rows in enumerate(tables):
        source, out = folder / f"in{number}.parquet", folder / f"out{number}.parquet"
        pq.write_table(rows, source)
        work = {"url": server.url, "store": str(folder / "store"), "source": str(source), "out": str(out)}
        started.append((workers.start(**work, **settings), out))
    assert [workers.join(pid) for pid, _ in started] == [0] * len(started)
    return [pq.read_table(out) for _, out in started]


def assert_each_accepted_once(server, *, distinct):
    usage = server.usage()
    assert usage["distinct_requests"] == usage["requests_accepted"] == distinct


def test_overlapping_tables_ask_each_request_once(workers, server, tmp_path):
    tables = [table(*range(first, first + 100)) for first in range(0, 50 * PROCESSES, 50)]
    settings = {"max_batch_requests": 25, "max_queued_requests": 100}
    for answered in run_all(workers, server, tmp_path, tables, **settings):
        assert answered["response"].to_pylist() == answered["text"].to_pylist()
    assert_each_accepted_once(server, distinct=50 * (PROCESSES + 1))


def test_the_same_submit_by_several_processes_is_one_job(workers, server, tmp_path):
    same = table(*range(90), *range(30))
    for answered in run_all(workers, server, tmp_path, [same] * PROCESSES, max_batch_requests=11):
        assert answered["response"].to_pylist() == answered["text"].to_pylist()
    assert len(cp.list_jobs(store=tmp_path / "store")) == 1
    assert_each_accepted_once(server, distinct=90)


def test_reversed_tables_end_in_two_whole_jobs(workers, server, tmp_path):
    tables = [table(*range(80)), table(*reversed(range(80)))]
    for answered in run_all(workers, server, tmp_path, tables, max_batch_requests=9):
        assert answered["response"].to_pylist() == answered["text"].to_pylist()
    assert_each_accepted_once(server, distinct=80)


def test_one_cost_stands_on_the_row_that_paid(workers, server, tmp_path):
    tables = [table(*range(60))] * 2 + [table(*reversed(range(60)))] * 2
    answered = run_all(workers, server, tmp_path, tables, max_batch_requests=7)
    one_of_each = [answered[0], answered[2]]
    assert sum(cost > 0 for rows in one_of_each for cost in rows["cost_usd"].to_pylist()) == 60


def test_a_new_store_may_be_opened_by_many_at_once(tmp_path):
    for attempt in range(5):
        with ThreadPoolExecutor(8) as pool:
            folder = tmp_path / str(attempt)
            numbers = {opened.ledger.account("same") for opened in pool.map(lambda _, f=folder: Store(f), range(8))}
        assert numbers == {1}


def test_threads_may_advance_one_job_at_once(server, tmp_path):
    settings = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16, "max_batch_requests": 5}
    job = cp.submit(table(*range(40)), store=tmp_path, base_url=server.url, max_queued_requests=10, **settings)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: job.wait(poll_interval=0.01), range(4)))
    assert job.status().unanswered == 0
    assert_each_accepted_once(server, distinct=40)


def test_canceling_and_advancing_at_once_breaks_nothing(server, tmp_path):
    settings = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16, "max_batch_requests": 2}
    job = cp.submit(table(*range(60)), store=tmp_path, base_url=server.url, max_queued_requests=4, **settings)
    jobs = [cp.open_job(job.job_id, store=tmp_path, base_url=server.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda opened: opened.cancel(), jobs[:2]))
        list(pool.map(lambda opened: opened.wait(poll_interval=0.01), jobs))
    assert job.status().state == "ended"
    assert server.usage()["answers_billed_twice"] == 0


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
