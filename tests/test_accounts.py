"""Accounts: an answer is whose key asked for it, and one store keeps the work of many apart."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest
from anthropic import Anthropic
from meddler import Answer, Meddler, Seen

import claude_pipeline as cp

HOUR = 3600.0
OPTIONS = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9}
TABLE = pa.table({"text": ["one", "two", "three", "four"]})
KEYS = {"key-old": "wrkspc_ours", "key-new": "wrkspc_ours", "key-theirs": "wrkspc_theirs"}


@pytest.fixture
def sandbox() -> Iterator[cp.Sandbox]:
    with cp.Sandbox(batch_seconds=HOUR, answer=lambda params: params["messages"][0]["content"]) as sandbox:
        yield sandbox


def by_key(seen: Seen, true: Answer) -> Answer:
    """Answer as the workspace of the key does."""
    key = seen.headers["authorization"].partition(" ")[2]
    return Answer(true.status, true.body, true.headers | {"anthropic-workspace-id": KEYS[key]})


def nameless(_seen: Seen, true: Answer) -> Answer:
    return Answer(
        true.status, true.body, {name: true.headers[name] for name in true.headers if "anthropic" not in name}
    )


@pytest.fixture
def api(sandbox) -> Iterator[Meddler]:
    with Meddler(sandbox.url, by_key) as meddler:
        yield meddler


@pytest.fixture
def client(api):
    """Make clients by their key."""
    with ExitStack() as stack:
        yield lambda key: stack.enter_context(Anthropic(base_url=api.url, api_key=key))


def finish(job: cp.Job, sandbox: cp.Sandbox) -> None:
    while job.advance().state != "ended":
        sandbox.advance_clock(HOUR)
    table = job.to_arrow()
    assert table["response"].to_pylist() == table["text"].to_pylist()


def test_a_key_that_is_rotated_between_the_waves_of_a_job_changes_nothing(sandbox, store, client):
    options = OPTIONS | {"max_batch_requests": 1, "max_queued_requests": 2}
    job = cp.submit(TABLE, store=store, client=client("key-old"), **options)
    sandbox.advance_clock(HOUR)
    rotated = cp.open_job(job.job_id, store=store, client=client("key-new"))
    finish(rotated, sandbox)
    assert cp.submit(TABLE, store=store, client=client("key-new"), **options).job_id == job.job_id
    assert sandbox.usage()["requests_accepted"] == 4


def test_a_rotated_key_settles_what_the_old_one_left_in_doubt(sandbox, store, client):
    sandbox.fail_next("create", "drop_after")
    job = cp.submit(TABLE, store=store, client=client("key-old"), **OPTIONS)
    finish(cp.open_job(job.job_id, store=store, client=client("key-new")), sandbox)
    assert sandbox.usage()["batches"] == 1


def test_a_key_of_another_workspace_asks_only_who_it_is_and_says_whose_the_work_is(sandbox, store, api, client):
    job = cp.submit(TABLE, store=store, client=client("key-old"), **OPTIONS)
    sandbox.advance_clock(HOUR)
    before = job.status()
    for step in (cp.advance, cp.poll):
        api.seen.clear()
        (status,) = step(store=store, client=client("key-theirs"))
        assert [(seen.method, seen.path) for seen in api.seen] == [("GET", "/v1/messages/batches?limit=1")]
        assert "belongs to account 'wrkspc_ours', but this client acts for 'wrkspc_theirs'" in status.reason
    assert job.status() == before


def test_two_workspaces_on_one_store_pay_for_their_own_answers(sandbox, store, client):
    ours = cp.submit(TABLE, store=store, client=client("key-old"), **OPTIONS)
    theirs = cp.submit(TABLE, store=store, client=client("key-theirs"), **OPTIONS)
    assert (theirs.status().requests, theirs.status().reused) == (4, 0)
    finish(ours, sandbox)
    finish(theirs, sandbox)
    batches = [{batch.batch_id for batch in job.status().batches} for job in (ours, theirs)]
    assert batches[0].isdisjoint(batches[1])
    assert [set(job.to_arrow()["batch_id"].to_pylist()) for job in (ours, theirs)] == batches
    assert ours.status().cost_usd == theirs.status().cost_usd > 0


def test_a_doubtful_batch_of_another_workspace_is_not_settled_by_ours(sandbox, store, api, client):
    sandbox.fail_next("create", "drop_after")
    ours = cp.submit(TABLE, store=store, client=client("key-old"), **OPTIONS)
    sandbox.advance_clock(HOUR)
    cp.advance(store=store, client=client("key-theirs"))
    assert "answer to a create call was lost" in ours.status().reason
    assert api.count("GET", "/results") == 0


def test_another_address_of_the_same_workspace_is_the_same_account(sandbox, store, client):
    job = cp.submit(TABLE, store=store, client=client("key-old"), **OPTIONS)
    with Meddler(sandbox.url, by_key) as proxy, Anthropic(base_url=proxy.url, api_key="key-new") as through_proxy:
        again = cp.submit(TABLE, store=store, client=through_proxy, **OPTIONS)
        assert again.job_id == job.job_id
        finish(again, sandbox)
    assert sandbox.usage()["batches"] == 1


def test_an_address_that_names_no_workspace_is_an_account_of_its_own(sandbox, store, client):
    cp.submit(TABLE, store=store, client=client("key-old"), **OPTIONS)
    with Meddler(sandbox.url, nameless) as proxy:
        other = cp.submit(TABLE, store=store, base_url=proxy.url, **OPTIONS)
        assert other.status().reused == 0
        with pytest.raises(cp.AccountError, match=f"acts for '{proxy.url}'"):
            cp.open_job(cp.list_jobs(store=store)[0].job_id, store=store, base_url=proxy.url).advance()


def test_a_revoked_key_at_one_place_keeps_no_other_place_waiting(store, client, api):
    with cp.Sandbox(batch_seconds=HOUR) as elsewhere:
        theirs = cp.submit(TABLE, store=store, base_url=elsewhere.url, **OPTIONS)
        ours = cp.submit(TABLE, store=store, client=client("key-old"), **OPTIONS)
        elsewhere.advance_clock(HOUR)
        api.meddle = lambda _seen, _true: Answer(401, b"{}")
        with pytest.raises(cp.ApiError, match="answered 401"):
            cp.advance(store=store)
        assert (theirs.status().state, ours.status().state) == ("ended", "in_progress")


# Two stores of one workspace


@pytest.mark.parametrize("lost", [(), (0,), (1,), (0, 1)], ids=str)
def test_two_stores_with_the_same_content_in_one_workspace_both_end_whole(sandbox, tmp_path, lost):
    def submit(number: int) -> cp.Job:
        if number in lost:
            sandbox.fail_next("create", "drop_after")
        return cp.submit(TABLE, store=Path(tmp_path / str(number)), base_url=sandbox.url, **OPTIONS)

    jobs = [submit(number) for number in (0, 1)]
    for job in jobs:
        finish(job, sandbox)
    assert sandbox.usage()["batches"] == 2
    assert all(len(job.status().batches) == 1 for job in jobs)
