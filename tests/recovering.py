"""What tests of recovery share: a sandbox that echoes prompts, a job over it, and what must be true at its end."""

from collections.abc import Iterator

import httpx2
import pyarrow as pa
import pytest

import claude_pipeline as cp
from claude_pipeline import settling
from claude_pipeline.store import Store

PATH = "/v1/messages/batches"
HEADERS = {"authorization": "Bearer any", "anthropic-version": "2026-10-21"}
LONG = 10_000.0
SETTLED = 601.0  # after its end a batch's results lack nothing that will come


def echo(params):
    return params["messages"][-1]["content"]


@pytest.fixture
def server() -> Iterator[cp.Sandbox]:
    with cp.Sandbox(answer=echo) as server:
        yield server


@pytest.fixture
def slow_server() -> Iterator[cp.Sandbox]:
    with cp.Sandbox(answer=echo, batch_seconds=LONG) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def no_grace(monkeypatch):
    monkeypatch.setattr(settling, "GRACE_SECONDS", 0.0)


def prompts(count):
    return pa.table({"text": [f"Prompt {row}" for row in range(count)]})


def ask(url, folder, *, rows=6, **settings):
    asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16} | settings
    return cp.submit(prompts(rows), store=folder, base_url=url, **asked)


def assert_all_answered(job):
    table = job.to_arrow()
    assert table["response"].to_pylist() == table["text"].to_pylist()
    assert job.status().unanswered == 0


def assert_nothing_paid_twice(server):
    usage = server.usage()
    assert usage["answers_billed_twice"] == 0
    assert usage["requests_accepted"] == usage["distinct_requests"]


def assert_blocks_until_healed(job, meddler, *, because=""):
    """Let a job meet what a meddler does, then the truth; return how it was blocked."""
    status = job.advance()
    assert status.state == "blocked"
    assert because in status.reason
    meddler.meddle = lambda _seen, _true: None
    job.resume()
    assert_all_answered(job.wait(poll_interval=0))


def create_by_someone_else(server, *, requests):
    params = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}
    body = {"requests": [{"custom_id": f"theirs_{i}", "params": params} for i in range(requests)]}
    return httpx2.post(server.url + PATH, headers=HEADERS, json=body).json()["id"]


def delete(server, batch_id):
    """Delete a batch that has ended, which the first look at it shows."""
    httpx2.get(f"{server.url}{PATH}/{batch_id}", headers=HEADERS)
    assert httpx2.delete(f"{server.url}{PATH}/{batch_id}", headers=HEADERS).status_code == 200


def shards_of(folder, job):
    return Store(folder).ledger.own_shards(job.job_id)
