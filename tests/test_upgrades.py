"""Stores of earlier versions, made by their own code, go on: their answers are there, and nothing is paid twice.

`tests/golden/stores/make.py` has made them; a store of a version that is released is never made anew.
"""

import importlib.util
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

import claude_pipeline as cp
from claude_pipeline.migrations import SCHEMA_VERSION

STORES = Path(__file__).with_name("golden") / "stores"
EARLIER = range(1, SCHEMA_VERSION)
EVERY_VERSION = pytest.mark.parametrize("version", EARLIER)

_spec = importlib.util.spec_from_file_location("make", STORES / "make.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


@pytest.fixture
def old(version, tmp_path):
    return shutil.copytree(STORES / f"v{version}", tmp_path / "store")


@pytest.fixture
def sandbox():
    with cp.Sandbox(answer=lambda params: "To " + params["messages"][0]["content"]) as server:
        yield server


def jobs_of(store):
    return {status.name: status for status in cp.list_jobs(store=store)}


def answers(texts):
    return [f"To {text}" if text else None for text in texts]


def version_of(store):
    with closing(sqlite3.connect(store / "ledger.sqlite")) as ledger:
        return int(ledger.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])


@EVERY_VERSION
def test_an_older_store_has_its_answers_and_what_they_cost(old):
    jobs = jobs_of(old)
    job = cp.open_job(jobs["answered"].job_id, store=old)
    rows = job.to_arrow()
    assert rows["response"].to_pylist() == answers(made.ANSWERED)
    status = job.status()
    assert (status.state, status.unanswered, status.duplicates, status.skipped) == ("ended", 0, 1, 1)
    cost = sum(cost or 0.0 for cost in rows["cost_usd"].to_pylist())
    assert cost == pytest.approx(status.cost_usd)
    for by in ("day", "model", "job"):
        told = cp.costs(by=by, store=old)
        assert sum(told["cost_usd"].to_pylist()) == pytest.approx(sum(status.cost_usd for status in jobs.values()))
    assert set(cp.costs(by="model", store=old)["model"].to_pylist()) == {made.ASKED["model"]}
    assert version_of(old) == SCHEMA_VERSION


@EVERY_VERSION
def test_the_open_job_of_an_older_store_is_finished_and_what_is_answered_is_not_asked_again(old, sandbox):
    job = cp.open_job(jobs_of(old)["open"].job_id, store=old, base_url=sandbox.url)
    assert job.wait(poll_interval=0).to_arrow()["response"].to_pylist() == answers(made.OPEN)
    options = {**made.ASKED, "store": old, "base_url": sandbox.url}
    for texts, name in ((made.ANSWERED, "answered"), (made.OPEN, "open")):
        same = cp.submit(made.table(texts), template="{text}", name=name, **options).wait(poll_interval=0)
        assert same.to_arrow()["response"].to_pylist() == answers(texts)
    assert sandbox.usage()["requests_accepted"] == 2


@EVERY_VERSION
def test_an_older_store_can_be_pruned(old):
    status = jobs_of(old)["answered"]
    before = cp.costs(by="job", store=old)
    assert status.job_id in {job.job_id for job in cp.prune(older_than="0h", store=old).jobs}
    assert cp.open_job(status.job_id, store=old).status().pruned_at is not None
    assert cp.costs(by="job", store=old).equals(before)


KILLED = """
import signal, sys
from pathlib import Path
from faultpoints import FaultPoints, strike
from claude_pipeline.sqlite import SqliteDatabase

FaultPoints(strike(signal.SIGKILL, at=int(sys.argv[2]), among="before commit")).install()
SqliteDatabase(Path(sys.argv[1]) / "ledger.sqlite")
"""


@pytest.mark.parametrize("version", [1])
def test_an_upgrade_that_is_killed_leaves_the_store_as_it_was(old):
    for at in count(1):
        words = [sys.executable, "-c", KILLED, str(old), str(at)]
        done = subprocess.run(words, cwd=Path(__file__).parent, check=False)
        if not done.returncode:
            break
        assert done.returncode == -9
        assert version_of(old) == 1
    assert at > 1
    assert version_of(old) == SCHEMA_VERSION
    assert jobs_of(old).keys() == {"answered", "open"}
