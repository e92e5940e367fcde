"""Files: no partial name, no lost record, whatever the disk does; and every door leads to the same requests."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import BuiltinMethodType, FrameType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import claude_pipeline as cp
from claude_pipeline.files import replacing
from claude_pipeline.sqlite import SqliteDatabase
from claude_pipeline.store import Store

DAY = 24 * 3600
HOUR = 3600.0


def answers_of(job: cp.Job) -> list[str]:
    return job.wait(poll_interval=0).to_arrow()["response"].to_pylist()


# Whole or absent


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "a.parquet"
    with replacing(target) as temporary:
        temporary.write_text("half")
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert target.read_text() == "whole"


def write_half_of(target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_a_file_that_was_not_finished_leaves_the_old_one_and_nothing_else(tmp_path):
    target = tmp_path / "a.parquet"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half_of(target)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.parquet", "old")]


class Order:
    """The order in which this thread makes files durable, renames them, and tells the database."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def watch(self, _frame: FrameType, event: str, called: Any) -> None:
        of_the_system = isinstance(called, BuiltinMethodType) and called.__self__ is sys.modules["posix"]
        if event == "c_call" and of_the_system and called.__name__ in {"fsync", "replace"}:
            self.seen.append(called.__name__)


def test_every_file_of_a_job_is_durable_before_it_has_its_name_and_its_name_before_anything_else(ask, tmp_path):
    order, before = Order(), sys.getprofile()
    sys.setprofile(order.watch)
    try:
        ask(["a", "a", "b"]).wait(poll_interval=0).write(tmp_path / "out.parquet")
    finally:
        sys.setprofile(before)
    renames = [at for at, name in enumerate(order.seen) if name == "replace"]
    assert len(renames) == 5  # the snapshot, the input, what is answered elsewhere, the results, the output
    assert all(order.seen[at - 1 : at + 2] == ["fsync", "replace", "fsync"] for at in renames)


def test_the_ledger_waits_for_the_disk(tmp_path):
    database = SqliteDatabase(tmp_path / "ledger.sqlite")
    full, wal = 2, "wal"
    assert database.rows("PRAGMA synchronous") == [(full,)]
    assert database.rows("PRAGMA journal_mode") == [(wal,)]


def test_what_a_killed_process_left_is_swept_up_once_it_is_old(ask, store):
    job = ask(["a"])
    left = [store / folder / ".input.parquet.0123abcd.tmp" for folder in ("spool", "results", f"jobs/{job.job_id}")]
    left += [store / "spool" / "0123abcd.parquet", store / "spool" / "tmp0123" / "rows-0.arrows"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    ask(["b"])
    assert all(path.exists() for path in left)
    for path in [*left, left[-1].parent]:
        os.utime(path, (time.time() - 3 * DAY,) * 2)
    ask(["c"])
    assert not any(path.exists() for path in left)
    assert answers_of(job) == ["a"]


# A disk that is full, or may not be written

CONTINUE = """
import os, resource, sys
import claude_pipeline as cp
from claude_pipeline.batches import BatchesApi
from claude_pipeline.transport import make_client

store, url, largest_file, out = sys.argv[1:]
client = make_client(url)
BatchesApi(client).account()  # loads what loads late, and may not be readable for another user
(status,) = cp.list_jobs(store=store)
if largest_file == "read-only":
    if os.geteuid() == 0:
        os.seteuid(65534)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file), int(largest_file)))
try:
    job = cp.open_job(status.job_id, store=store, client=client)
    job.wait(poll_interval=0.1, timeout=60)
    job.write(out)
    print("It ended.")
except cp.PipelineError as error:
    print(error)
"""


def go_on(job_store: Path, sandbox: cp.Sandbox, limit: object) -> str:
    command = [sys.executable, "-W", "error", "-c", CONTINUE, job_store, sandbox.url, str(limit)]
    out = job_store.parent / "out.parquet"
    ran = subprocess.run([*command, out], capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    return ran.stdout


@pytest.fixture
def slow() -> Iterator[cp.Sandbox]:
    with cp.Sandbox(batch_seconds=HOUR, answer=lambda params: params["messages"][0]["content"]) as sandbox:
        yield sandbox


def submit(sandbox: cp.Sandbox, store: Path, source: Any, **options: Any) -> cp.Job:
    asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9, "base_url": sandbox.url}
    return cp.submit(source, store=store, **(asked | options))


@pytest.mark.parametrize("largest_file", [0, 100, 20_000, 60_000])
def test_a_disk_that_fills_up_while_results_come_in_loses_nothing(slow, store, largest_file):
    texts = [f"row {number} {number**7}" for number in range(3_000)]
    job = submit(slow, store, pa.table({"text": texts}))
    slow.advance_clock(HOUR)
    said = go_on(store, slow, largest_file)
    assert "run the same command again" in said
    assert not list(store.rglob(".*.tmp"))
    assert answers_of(job) == texts
    assert slow.usage()["requests_accepted"] == len(texts)


def test_a_store_that_may_not_be_written_says_so_and_loses_nothing(slow):
    with TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        Path(folder).chmod(0o755)
        job = submit(slow, store, pa.table({"text": ["a", "b"]}))
        slow.advance_clock(HOUR)
        paths = [store, *store.rglob("*")]
        before = [path.stat().st_mode for path in paths]
        for path, mode in zip(paths, before, strict=True):
            path.chmod(mode & ~0o222)
        assert f"Cannot use the ledger {store}" in go_on(store, slow, "read-only")
        for path, mode in zip(paths, before, strict=True):
            path.chmod(mode)
        assert answers_of(job) == ["a", "b"]
        assert slow.usage()["requests_accepted"] == 2


def test_results_that_are_missing_from_the_store_are_an_error_and_not_an_empty_column(ask, store):
    job = ask(["a"]).wait(poll_interval=0)
    (results,) = (store / "results").iterdir()
    results.unlink()
    with pytest.raises(cp.StoreError, match=r"msgbatch_.*\.parquet is missing from the store"):
        job.to_arrow()


@pytest.mark.parametrize("name", ["jobs/*/input.parquet", "results/*.parquet"])
def test_a_file_of_the_store_that_is_damaged_is_named(ask, store, name):
    job = ask(["a"]).wait(poll_interval=0)
    (path,) = store.glob(name)
    path.write_bytes(b"damaged")
    with pytest.raises(cp.StoreError, match=f"{path} is damaged. Bring it back from a backup"):
        job.to_arrow()


# Where a store is made


def test_a_source_that_does_not_exist_is_told_before_anything_else_and_makes_no_store(store, tmp_path):
    with pytest.raises(cp.InputError, match=r"No file matches .*none\.csv"):
        cp.submit(tmp_path / "none.csv", prompt_column="text", model="m", max_tokens=1, store=store)
    assert not store.exists()


def test_a_store_in_a_folder_that_does_not_exist_is_taken_for_a_slip(sandbox, tmp_path):
    with pytest.raises(cp.StoreError, match=f"There is no folder {tmp_path}/tpyo to make a store in"):
        submit(sandbox, tmp_path / "tpyo" / "store", pa.table({"text": ["a"]}))
    assert list(tmp_path.iterdir()) == []
    assert sandbox.usage()["batches"] == 0


# Doors, duplicates


def test_one_table_through_three_doors_is_asked_once(slow, store, tmp_path):
    texts = ["00123", 'é\n"two", lines', "  blanks  ", "None", "nan", "1e5", "true"]
    table = pa.table({"text": texts})
    pq.write_table(table, tmp_path / "a.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "a.csv")
    doors = [tmp_path / "a.parquet", tmp_path / "a.csv", pd.DataFrame({"text": texts}), table]
    jobs = [submit(slow, store, door) for door in doors]
    slow.advance_clock(HOUR)
    assert [answers_of(job) for job in jobs] == [texts] * len(jobs)
    usage = slow.usage()
    assert (usage["requests_accepted"], usage["distinct_requests"]) == (len(texts), len(texts))
    assert sum(job.status().cost_usd for job in jobs) == pytest.approx(jobs[0].status().cost_usd)


def test_half_of_the_rows_doubled_across_shards_and_jobs_are_asked_once_and_paid_once(slow, store):
    first = [f"row {number % 50}" for number in range(100)]
    second = [f"row {number % 50 + 25}" for number in range(100)]
    options = {"max_batch_requests": 7, "max_queued_requests": 21}
    jobs = [submit(slow, store, pa.table({"text": texts}), **options) for texts in (first, second)]
    for job in jobs:
        while job.advance().state != "ended":
            slow.advance_clock(HOUR)
    assert [answers_of(job) for job in jobs] == [first, second]
    usage = slow.usage()
    assert (usage["requests_accepted"], usage["distinct_requests"], usage["answers_billed_twice"]) == (75, 75, 0)
    costs = [cost for job in jobs for cost in job.to_arrow()["cost_usd"].to_pylist()]
    assert sum(cost > 0 for cost in costs) == 75
    assert len(Store(store).ledger.batch_ids()) == usage["batches"]
