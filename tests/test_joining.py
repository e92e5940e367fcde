"""The join: every row once, in order, with the right answer, paid for once."""

import json
from collections import Counter
from dataclasses import astuple
from uuid import uuid4

import pyarrow as pa
import pytest
from anthropic import Anthropic
from conftest import submit_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claude_pipeline as cp

# What becomes of a prompt is its first word; the number makes it one of several.
FATES = {
    "fine": [],
    "wrong": ["invalid_request_error"] * 9,
    "busy": ["overloaded_error"],
    "late": ["expired", "api_error"],
    "never": ["api_error"] * 9,
}
BLANKS = [None, "", " \n"]
PROMPTS = st.one_of(st.builds("{} {}".format, st.sampled_from(list(FATES)), st.integers(0, 3)), st.sampled_from(BLANKS))
TABLES = st.lists(PROMPTS, min_size=1, max_size=12)
MAX_ATTEMPTS = 3


def prompt_of(params):
    return params["messages"][0]["content"]


def decide(_custom_id, params, attempt):
    fate = FATES[prompt_of(params).split()[0]]
    return fate[attempt - 1] if attempt <= len(fate) else "succeeded"


def answer(params):
    return f"An answer to {prompt_of(params)}."


@pytest.fixture(scope="module")
def clients():
    """Give each example a sandbox of its own, at no cost of starting it."""
    with cp.Sandbox(rows=decide, answer=answer) as sandbox, Anthropic(base_url=sandbox.url, api_key="x") as client:
        yield sandbox, client


def expected(prompt):
    """Return result_type, response, error_type and attempts of a row."""
    if prompt in BLANKS:
        return None, None, "missing_prompt", None
    fate = FATES[prompt.split()[0]]
    if len(fate) >= MAX_ATTEMPTS:
        attempts = 1 if fate[0] == "invalid_request_error" else MAX_ATTEMPTS
        return "errored", None, fate[0], attempts
    return "succeeded", f"An answer to {prompt}.", None, len(fate) + 1


def table_of(prompts, *, padding=0):
    rows = range(len(prompts))
    payload = [f"{row} " + "." * padding for row in rows]
    return pa.table({"row": rows, "text": pa.array(prompts, pa.string()), "payload": payload})


def check(job, prompts, *, padding=0):
    joined = job.to_arrow()
    assert joined.select(["row", "text", "payload"]).equals(table_of(prompts, padding=padding))
    columns = ["result_type", "response", "error_type", "attempts"]
    found = [tuple(row.values()) for row in joined.select(columns).to_pylist()]
    assert found == [expected(prompt) for prompt in prompts]
    return joined


def paid(tables):
    """Return the ids that were answered, and how often each was paid for."""
    rows = [row for table in tables for row in table.select(["custom_id", "result_type", "cost_usd"]).to_pylist()]
    answered = {row["custom_id"] for row in rows if row["result_type"] == "succeeded"}
    return answered, Counter(row["custom_id"] for row in rows if row["cost_usd"])


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TABLES, min_size=1, max_size=3), st.integers(1, 5), st.booleans())
def test_every_row_comes_back_once_in_order_with_its_answer_and_is_paid_for_once(
    tmp_path_factory, clients, tables, most, in_turn
):
    sandbox, client = clients
    before = sandbox.usage()["requests_accepted"]
    options = {"max_batch_requests": most, "salt": uuid4().hex, "store": tmp_path_factory.mktemp("store")}
    jobs = []
    for number, prompts in enumerate(tables):
        job = submit_to(sandbox, table_of(prompts), client=client, name=str(number), **options)
        jobs.append(job.wait(poll_interval=0) if in_turn else job)
    for job in jobs:
        job.wait(poll_interval=0)
    joined = [check(job, prompts) for job, prompts in zip(jobs, tables, strict=True)]
    answered, payments = paid(joined)
    assert payments == dict.fromkeys(answered, 1)
    for job, prompts in zip(jobs, tables, strict=True):
        status = job.status()
        assert status.rows == sum((status.skipped, status.invalid, status.duplicates, status.reused, status.requests))
        assert status.requests == sum(astuple(status.counts))
        assert status.unanswered == sum(expected(prompt)[2] not in {None, "missing_prompt"} for prompt in prompts)
    assert sum(status.cost_usd for status in map(cp.Job.status, jobs)) == pytest.approx(
        sum(sum(table["cost_usd"].drop_null().to_pylist()) for table in joined)
    )
    if not in_turn:  # one after the other, what failed is asked afresh
        distinct = {prompt for prompts in tables for prompt in prompts} - set(BLANKS)
        sent = sandbox.usage()["requests_accepted"] - before
        assert sent == sum(expected(prompt)[3] for prompt in distinct)


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(None, None, 3), slice(5, 30)])
def test_answers_of_another_job_come_in_the_order_of_this_one(clients, store, order):
    sandbox, client = clients
    prompts = [f"fine {number}" for number in range(40)]
    submit_to(sandbox, table_of(prompts), client=client, store=store, max_batch_requests=7).wait(poll_interval=0)
    other = submit_to(sandbox, table_of(prompts[order]), client=client, store=store).wait(poll_interval=0)
    assert set(check(other, prompts[order])["cost_usd"].to_pylist()) == {0.0}


def test_rows_too_large_for_one_step_are_joined_in_several(clients, store):
    sandbox, client = clients
    prompts = [prompt for number in range(6) for prompt in (f"fine {number}", "busy 1", None, f"fine {9 - number}")]
    options = {"client": client, "store": store, "salt": "large", "max_batch_requests": 4}
    padding = 2_000_000
    first = submit_to(sandbox, table_of(prompts, padding=padding), **options).wait(poll_interval=0)
    check(first, prompts, padding=padding)
    other = submit_to(sandbox, table_of(prompts[::-1], padding=padding), **options).wait(poll_interval=0)
    check(other, prompts[::-1], padding=padding)


def test_long_answers_are_joined_in_several_steps(store):
    prompts = [f"fine {number}" for number in range(36)]
    with cp.Sandbox(answer=lambda params: prompt_of(params) + "." * 500_000) as sandbox:
        options = {"store": store, "max_tokens": 128_000, "max_batch_requests": 15}
        for order in (prompts, prompts[::-1]):
            job = submit_to(sandbox, order, **options).wait(poll_interval=0)
            assert [text.rstrip(".") for text in job.to_arrow()["response"].to_pylist()] == order


def test_before_the_end_every_row_is_there_and_those_without_a_result_say_so(store):
    prompts = [f"fine {number}" for number in range(6)] + [None, "fine 0"]
    with cp.Sandbox(batch_seconds=3600) as sandbox:
        job = submit_to(sandbox, prompts, store=store, max_batch_requests=4, max_queued_requests=4)
        joined = job.to_arrow()
    assert joined["text"].to_pylist() == prompts
    assert joined["result_type"].null_count == len(prompts)
    assert joined["error_type"].to_pylist() == [None] * 6 + ["missing_prompt", None]
    assert joined["custom_id"].null_count == 1
    assert joined["custom_id"][7] == joined["custom_id"][0]


def test_halfway_through_the_rows_of_ended_batches_have_their_answers(store):
    with cp.Sandbox(batch_seconds=60) as sandbox:
        job = submit_to(sandbox, ["a", "b", "c", "d"], store=store, max_batch_requests=2, max_queued_requests=2)
        sandbox.advance_clock(61)
        job.advance()
        assert job.to_arrow()["response"].to_pylist() == ["a", "b", None, None]
        assert job.status().state == "in_progress"


def test_a_row_that_is_asked_again_has_no_result_meanwhile(store):
    with cp.Sandbox(batch_seconds=60, rows=decide) as sandbox:
        job = submit_to(sandbox, ["busy 1", "fine 1"], store=store)
        sandbox.advance_clock(61)
        job.advance()
        assert job.to_arrow()["result_type"].to_pylist() == [None, "succeeded"]
        sandbox.advance_clock(61)
        job.wait(poll_interval=0)
        assert job.to_arrow()["attempts"].to_pylist() == [2, 1]


def test_a_column_named_with_dots_is_no_path(clients, store):
    sandbox, client = clients
    table = pa.table({"a": ["x"], "a.b": ["fine dots"], "a.b.c": [{"d": 1}]})
    job = submit_to(sandbox, table, prompt_column="a.b", client=client, store=store).wait(poll_interval=0)
    assert job.to_arrow().select(["a", "a.b", "a.b.c"]).equals(table)
    (received,) = sandbox.requests(job.status().batches[0].batch_id)
    assert prompt_of(json.loads(received.params)) == "fine dots"


def test_what_was_answered_when_a_job_was_planned_and_is_given_up_since_has_no_answer(clients, store):
    sandbox, client = clients
    first = submit_to(sandbox, table_of(["fine 7", "fine 8"]), client=client, store=store).wait(poll_interval=0)
    prompts = ["fine 8", "fine 9", "fine 7"]
    second = submit_to(sandbox, table_of(prompts), client=client, store=store).wait(poll_interval=0)
    check(second, prompts)
    (batch,) = first.status().batches
    client.messages.batches.delete(batch.batch_id)
    (store / "results" / f"{batch.batch_id}.parquet").unlink()
    cp.doctor(store=store, client=client, fix=True, give_up_lost=True)
    assert second.to_arrow()["result_type"].to_pylist() == ["errored", "succeeded", "errored"]
