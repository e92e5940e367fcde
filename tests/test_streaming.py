"""Rows answered now: what comes of each, in which order, and who is told meanwhile."""

import asyncio
import gc
import threading
from contextlib import nullcontext
from datetime import datetime, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from anthropic import Anthropic
from streams import OLD, asked_messages, echo, stream_from

import claude_pipeline as cp


@pytest.fixture
def sandbox():
    with cp.Sandbox(answer=echo) as server:
        yield server


def answers(rows):
    return {row.row: row.response for row in rows}


def test_every_row_comes_with_its_cells_and_its_answer(sandbox, store):
    table = pa.table({"id": [7, 8], "text": ["one", "two"]})
    rows = sorted(stream_from(sandbox, table, store=store), key=lambda row: row.row)
    assert [row.input for row in rows] == table.to_pylist()
    assert [row.response for row in rows] == ["one", "two"]
    for row in rows:
        assert (row.result_type, row.stop_reason, row.model, row.attempts) == ("succeeded", "end_turn", OLD, 1)
        assert (row.output_tokens, row.batch_id, row.error_type) == (1, None, None)
        assert row.seconds_to_first_token > 0
        assert row.tokens_per_second > 0
        assert row.cost_usd > 0
        assert not row.is_in_progress


def test_the_table_of_the_job_says_the_same_as_the_rows(sandbox, store):
    with stream_from(sandbox, ["one", None, "two", "one"], store=store) as stream:
        rows = sorted(stream, key=lambda row: row.row)
    table = stream.job.to_arrow()
    for name in table.column_names[1:]:
        assert table[name].to_pylist() == [getattr(row, name) for row in rows], name
    assert stream.job.status().state == "ended"
    assert stream.job.status().unanswered == 0


def test_a_pandas_index_is_no_cell_and_comes_back_with_the_table(sandbox, store):
    frame = pd.DataFrame({"text": ["one", "two"]}, index=["a", "b"])
    with stream_from(sandbox, frame, store=store, in_order=True) as stream:
        assert [row.input for row in stream] == [{"text": "one"}, {"text": "two"}]
    assert stream.job.to_pandas()["response"].to_dict() == {"a": "one", "b": "two"}


def test_rows_come_in_the_order_of_the_input_on_request(sandbox, store):
    prompts = [f"{'word ' * (20 - number)}{number}" for number in range(20)]
    rows = list(stream_from(sandbox, [*prompts, None, prompts[3]], store=store, in_order=True))
    assert [row.row for row in rows] == list(range(22))
    assert [row.response for row in rows] == [*prompts, None, prompts[3]]


def test_a_blank_prompt_and_a_missing_field_are_said_and_not_asked(sandbox, store):
    table = pa.table({"a": ["x", None, "y"], "b": pa.array(["1", None, None])})
    rows = list(stream_from(sandbox, table, template="{a} {b}", store=store, in_order=True))
    assert [row.error_type for row in rows] == [None, "missing_prompt", "missing_field"]
    assert "Row 3" in rows[2].error_message
    assert len(asked_messages(sandbox)) == 1


def test_duplicates_are_asked_once_and_cost_once(sandbox, store):
    rows = list(stream_from(sandbox, ["same", "other", "same", "same"], store=store, in_order=True))
    assert [row.response for row in rows] == ["same", "other", "same", "same"]
    assert [row.cost_usd > 0 for row in rows] == [True, True, False, False]
    assert len(asked_messages(sandbox)) == 2


def test_text_arrives_in_pieces_in_the_thread_that_takes_the_rows(sandbox, store):
    said, threads = {}, set()

    def hear(row, text):
        said.setdefault(row, []).append(text)
        threads.add(threading.current_thread())

    prompts = ["a rather long prompt, which comes back in several pieces", "short"]
    rows = list(stream_from(sandbox, prompts, store=store, on_text=hear))
    assert {row: "".join(pieces) for row, pieces in said.items()} == answers(rows) == dict(enumerate(prompts))
    assert threads == {threading.current_thread()}


def test_events_arrive_as_the_api_sends_them(sandbox, store):
    heard = []
    list(stream_from(sandbox, ["hello"], store=store, on_event=lambda row, event: heard.append((row, event))))
    kinds = [event["type"] for _, event in heard]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert {"content_block_start", "ping", "content_block_delta", "content_block_stop"} <= set(kinds)
    assert {row for row, _ in heard} == {0}


def test_a_callback_that_raises_ends_the_run_and_keeps_what_is_complete(sandbox, store):
    def refuse(row, _text):
        if row == 1:
            raise KeyError("mine")

    stream = stream_from(sandbox, ["one", "two", "three"], store=store, on_text=refuse, max_concurrency=1)
    rows = []
    with pytest.raises(KeyError, match="mine"):
        rows.extend(stream)
    status = stream.job.status()
    assert status.state == "ended"
    assert status.counts.succeeded >= 1
    before = len(asked_messages(sandbox))
    assert answers(stream_from(sandbox, ["one", "two", "three"], store=store)) == {0: "one", 1: "two", 2: "three"}
    assert len(asked_messages(sandbox)) == before + status.unanswered


@pytest.mark.parametrize("leave", ["close", "drop", "with"])
def test_leaving_the_loop_ends_what_is_under_way_and_keeps_what_is_complete(store, leave):
    with cp.Sandbox(answer=echo, tokens_per_second=5) as slow:
        stream = stream_from(slow, ["one", "a " * 500, "b " * 500], max_tokens=2000, store=store)
        with stream if leave == "with" else nullcontext():
            assert next(stream).response == "one"
        if leave == "close":
            stream.close()
        job = stream.job
        del stream
        gc.collect()
        status = job.status()
        assert (status.state, status.counts.succeeded, status.counts.canceled) == ("ended", 1, 2)
        assert next(stream_from(slow, ["one"], store=store)).response == "one"


def test_rows_without_an_answer_are_asked_by_the_next_run_and_the_others_are_not(sandbox, store):
    with stream_from(sandbox, ["one", "two", "three"], store=store, max_concurrency=1) as stream:
        next(stream)
    answered = stream.job.status().counts.succeeded
    assert 1 <= answered < 3
    before = len(asked_messages(sandbox))
    rows = list(stream_from(sandbox, ["one", "two", "three"], store=store))
    assert answers(rows) == {0: "one", 1: "two", 2: "three"}
    assert len(asked_messages(sandbox)) == before + 3 - answered
    assert sum(row.cost_usd == 0 for row in rows) == answered


def test_nothing_is_asked_before_the_first_row_is_taken(sandbox, store):
    stream = stream_from(sandbox, ["one"], store=store)
    assert asked_messages(sandbox) == []
    stream.close()
    assert cp.list_jobs(store=store)[0].counts.succeeded == 0
    assert answers(stream_from(sandbox, ["one"], store=store)) == {0: "one"}


def test_no_more_rows_are_asked_at_once_than_were_allowed(store):
    with cp.Sandbox(answer=echo, latency=0.2) as slow:
        list(stream_from(slow, [f"{n}" for n in range(12)], store=store, max_concurrency=3))
        asked = asked_messages(slow)
    times = [datetime.fromisoformat(line.at) for line in asked]
    spans = [(at, at + timedelta(seconds=line.seconds)) for at, line in zip(times, asked, strict=True)]
    assert max(sum(begun <= at < ended for begun, ended in spans) for at in times) == 3


def test_it_works_while_an_event_loop_runs(sandbox, store):
    async def cell():
        return answers(stream_from(sandbox, ["one", "two"], store=store))

    assert asyncio.run(cell()) == {0: "one", 1: "two"}


TOOL = {
    "name": "note",
    "input_schema": {
        "type": "object",
        "properties": {"word": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["word", "count"],
        "additionalProperties": False,
    },
}


def test_a_tools_input_is_typed_as_in_a_batch(store):
    with cp.Sandbox() as server:
        params = {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "note"}}
        (row,) = stream_from(server, ["note this"], store=store, params=params)
        job = stream_from(server, ["note this"], store=store, params=params).job
        assert row.output["tool_name"] == "note"
        assert set(row.output["tool_input"]) == {"word", "count"}
        assert isinstance(row.output["tool_input"]["count"], int)
        assert job.to_arrow()["tool_input"].to_pylist() == [row.output["tool_input"]]


def test_an_output_schema_gives_typed_columns_and_says_what_does_not_fit(store):
    def judge(params):
        return '{"label": "good"}' if "fine" in params["messages"][-1]["content"] else "no json at all"

    with cp.Sandbox(answer=judge) as server:
        prompts = ["fine", "odd"]
        rows = list(stream_from(server, prompts, store=store, output_schema={"label": "good|bad"}, in_order=True))
    assert [row.output for row in rows] == [{"label": "good"}, {"label": None}]
    assert [row.error_type for row in rows] == [None, "invalid_output"]
    assert rows[1].response == "no json at all"


def test_thinking_is_kept_in_the_content_and_is_no_part_of_the_response(store):
    with cp.Sandbox() as server:
        params = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
        (row,) = stream_from(
            server, ["Think. Then answer."], store=store, params=params, max_tokens=2048, content="json"
        )
    assert [kind in row.output["content"] for kind in ('"thinking"', '"signature"', '"text"')] == [True] * 3
    assert row.response
    assert "thinking" not in row.response


def test_an_answer_is_what_the_api_would_have_said_at_once(store):
    with cp.Sandbox() as server, Anthropic(base_url=server.url, api_key="x") as client:
        asked = {"model": OLD, "max_tokens": 200, "tools": [TOOL], "tool_choice": {"type": "any"}}
        (row,) = stream_from(
            server, ["go"], store=store, params={k: asked[k] for k in ("tools", "tool_choice")}, content="json"
        )
        at_once = client.messages.create(messages=[{"role": "user", "content": "go"}], **asked)
    assert row.output["tool_input"] == at_once.content[0].input
    assert (row.input_tokens, row.output_tokens) == (at_once.usage.input_tokens, at_once.usage.output_tokens)


def test_a_refusal_and_a_cut_off_answer_are_paid_and_flagged(store):
    with cp.Sandbox(answer=lambda _params: {"content": "", "stop_reason": "refusal"}) as server:
        (refused,) = stream_from(server, ["a"], store=store)
    with cp.Sandbox(answer=echo) as server:
        (cut,) = stream_from(server, ["many words " * 30], store=store, max_tokens=5)
    assert (refused.result_type, refused.stop_reason) == ("succeeded", "refusal")
    assert (cut.result_type, cut.stop_reason, cut.output_tokens) == ("succeeded", "max_tokens", 5)


def test_rows_may_bring_their_own_model_and_limit(sandbox, store):
    table = pa.table({"text": ["many words " * 9] * 2, "m": ["claude-haiku-4-5", "claude-opus-5-5"], "n": [2, 3]})
    rows = list(
        stream_from(
            sandbox, table, store=store, model=None, max_tokens=None, in_order=True,
            params_columns={"model": "m", "max_tokens": "n"},
        )
    )  # fmt: skip
    assert [(row.model, row.output_tokens) for row in rows] == [("claude-haiku-4-5", 2), ("claude-opus-5-5", 3)]


def test_the_answers_are_written_as_those_of_a_batch(sandbox, store, tmp_path):
    with stream_from(sandbox, ["one", "two"], store=store) as stream:
        list(stream)
    stream.job.write(tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["response"].to_pylist() == ["one", "two"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_concurrency": 0}, "max_concurrency is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"idle_timeout": 0}, "idle_timeout is 0"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"max_cost_usd": -1}, "max_cost_usd is -1"),
        ({"params": {"stream": True}}, "stream"),
        ({"params": {"temperature": 1}}, "temperature"),
        ({"template": "{txt}", "prompt_column": None}, "txt"),
        ({"model": None}, "model is None"),
        ({"prompt_column": "txt"}, "No column 'txt'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(sandbox, store, options, message):
    with pytest.raises(cp.InputError, match=message):
        stream_from(sandbox, ["a"], store=store, **options)
    assert asked_messages(sandbox) == []


def test_a_streamed_job_is_not_resumed_as_a_batch(sandbox, store):
    with stream_from(sandbox, ["one", "two"], store=store) as stream:
        next(stream)
    with pytest.raises(cp.InputError, match="was streamed"):
        stream.job.resume()
