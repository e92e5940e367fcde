"""What breaks on the way to a streamed answer, and what becomes of the row."""

import time

import pytest
from streams import NEW, OLD, asked_messages, echo, going_on, stream_from, whole_answers
from test_events import delta, end, message, sse, start, stop

import claude_pipeline as cp

TEXT = "The quick brown fox jumps over the lazy dog, and then it goes home and sleeps until the morning."


def broken(fault, *positions, **keys):
    return {"streams": [{"fault": fault, "positions": list(positions or (1,)), **keys}]}


@pytest.mark.parametrize("model", [OLD, NEW])
@pytest.mark.parametrize("fault", ["reset", "eof", "error"])
@pytest.mark.parametrize("events", [4, 5, 7])
def test_an_answer_cut_midway_goes_on_where_it_broke_off(store, fault, events, model):
    with cp.Sandbox(answer=going_on(TEXT), faults=broken(fault, events=events)) as server:
        said = []
        (row,) = stream_from(server, ["Go"], store=store, model=model, on_text=lambda _, text: said.append(text))
        billed = server.usage()
    assert (row.response, row.stop_reason, row.attempts) == (TEXT, "end_turn", 2)
    assert "".join(said) == TEXT
    assert row.input_tokens == billed["input_tokens"]
    assert billed["messages"] == 2


def test_an_answer_cut_three_times_is_one_answer(store):
    with cp.Sandbox(answer=going_on(TEXT), faults=broken("reset", 1, 2, 3, events=4)) as server:
        (row,) = stream_from(server, ["Go"], store=store, max_attempts=4)
    assert (row.response, row.attempts) == (TEXT, 4)


def test_an_answer_cut_too_often_is_an_error_that_says_what_was_paid(store):
    with cp.Sandbox(answer=going_on(TEXT), faults=broken("eof", 1, 2, events=5)) as server:
        with stream_from(server, ["Go"], store=store, max_attempts=2) as stream:
            (row,) = stream
        status = stream.job.status()
        (again,) = stream_from(server, ["Go"], store=store)
    assert (row.result_type, row.error_type, row.attempts) == ("errored", "api_error", 2)
    assert "ended before the answer did" in row.error_message
    assert row.response is None
    assert row.cost_usd > 0
    assert (status.unanswered, status.cost_usd) == (1, pytest.approx(row.cost_usd))
    assert again.response == TEXT


TOOL = {
    "name": "note",
    "input_schema": {
        "type": "object",
        "properties": {"word": {"type": "string"}, "other": {"type": "string"}},
        "required": ["word", "other"],
        "additionalProperties": False,
    },
}


def test_what_was_said_in_the_same_breath_as_an_error_is_told_and_kept(store):
    """One piece of the connection may bring text and an error, and a second one may come while the first is joined."""
    first, second = TEXT[:30], TEXT[30:45]

    def piece(text, *, is_last):
        said = [message(), start(0, type="text", text=""), delta(0, "text_delta", text=text)]
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        return sse(*said, *([stop(0), *end()] if is_last else [error]))

    answers = iter([piece(first, is_last=False), piece(second, is_last=False), piece(TEXT[45:], is_last=True)])
    said = []
    with cp.Sandbox() as server, whole_answers(server.url, answers) as url:
        rows = stream_from(
            server, ["Go"], store=store, model=NEW, base_url=url, on_text=lambda _, text: said.append(text)
        )
        (row,) = rows
    assert (row.response, row.attempts) == (TEXT, 3)
    assert "".join(said) == TEXT


STARTING_AGAIN = {
    "tool use": {"params": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "note"}}},
    "thinking": {"params": {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "max_tokens": 2048},
    "schema": {"output_schema": {"label": "good|bad", "why": str}},
}


@pytest.mark.parametrize("what", STARTING_AGAIN)
@pytest.mark.parametrize("fault", ["reset", "eof", "error"])
def test_what_cannot_be_continued_starts_again(store, what, fault):
    events = []
    with cp.Sandbox(faults=broken(fault, events=4)) as server:
        options = {"store": store, "content": "json", "on_event": lambda _, event: events.append(event)}
        (row,) = stream_from(server, ["Go on then."], **options, **STARTING_AGAIN[what])
        retry = next(event for event in events if event["type"] == "retry")
        whole = events[events.index(retry) + 1 :]
        assert [line.fault for line in asked_messages(server)] == [fault, None]
    assert (retry["attempt"], retry["continues"]) == (2, False)
    assert [whole[0]["type"], whole[-1]["type"]] == ["message_start", "message_stop"]
    assert (row.result_type, row.error_type, row.attempts) == ("succeeded", None, 2)


def test_tool_input_that_does_not_parse_is_asked_again(store):
    with cp.Sandbox(faults=broken("invalid_json")) as server:
        (row,) = stream_from(server, ["Go"], store=store, **STARTING_AGAIN["tool use"])
    assert (row.output["tool_name"], row.attempts) == ("note", 2)
    assert set(row.output["tool_input"]) == {"word", "other"}


@pytest.mark.parametrize("fault", ["unknown_event", "split_utf8"])
def test_events_of_tomorrow_and_characters_cut_in_half_do_no_harm(store, fault):
    text = "Ünïcödé ☕ and more of it 🦊 until the end"
    with cp.Sandbox(answer=lambda _: text, faults=broken(fault)) as server:
        (row,) = stream_from(server, ["Go"], store=store)
    assert (row.response, row.attempts) == (text, 1)


def test_a_stream_that_stalls_is_given_up_after_the_idle_timeout_and_goes_on(store):
    with cp.Sandbox(answer=going_on(TEXT), faults=broken("stall", events=5)) as server:
        (row,) = stream_from(server, ["Go"], store=store, idle_timeout=1.0)
    assert (row.response, row.attempts) == (TEXT, 2)


@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_what_the_api_cannot_do_just_now_is_asked_again(store, status):
    with cp.Sandbox(answer=echo) as server:
        server.fail_next("messages", status)
        (row,) = stream_from(server, ["Go"], store=store)
        assert [line.status for line in asked_messages(server)] == [status, 200]
    assert (row.response, row.attempts) == ("Go", 2)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
def test_a_connection_that_drops_before_the_answer_is_asked_again(store, fault):
    with cp.Sandbox(answer=echo) as server:
        server.fail_next("messages", fault)
        (row,) = stream_from(server, ["Go"], store=store)
    assert (row.response, row.attempts) == ("Go", 2)


def test_an_outage_is_an_error_of_each_row_and_none_of_the_run(store):
    with cp.Sandbox(answer=echo) as server:
        server.fail_next("messages", 503, times=4)
        rows = list(stream_from(server, ["a", "b"], store=store, max_attempts=2))
        assert [row.error_type for row in rows] == ["api_error"] * 2
        assert all("answered 503" in row.error_message for row in rows)
        assert [row.response for row in stream_from(server, ["a", "b"], store=store, in_order=True)] == ["a", "b"]


def test_too_many_requests_make_all_rows_rest_and_cost_no_attempt(store):
    with cp.Sandbox(answer=echo) as server:
        server.fail_next("messages", 429, times=3, retry_after=1)
        begun = time.monotonic()
        rows = list(stream_from(server, ["a", "b", "c"], store=store))
        taken = time.monotonic() - begun
    assert sorted(row.response for row in rows) == ["a", "b", "c"]
    assert {row.attempts for row in rows} == {1}
    assert taken >= 1


def test_a_limit_that_is_used_up_is_waited_for(store):
    """The headers say so before the API has to refuse."""
    with cp.Sandbox(answer=echo, tier="start", clock_speed=60) as server:
        rows = list(stream_from(server, [f"{n}" for n in range(60)], store=store, max_concurrency=8))
        statuses = [line.status for line in asked_messages(server)]
    assert len([row for row in rows if row.response]) == 60
    assert statuses.count(200) == 60
    assert statuses.count(429) <= 8


def test_a_refused_request_is_an_error_of_its_row_alone(store):
    with cp.Sandbox(answer=echo) as server:
        server.fail_next("messages", 400, after=1)
        rows = list(stream_from(server, ["fine", "odd", "well"], store=store, in_order=True, max_concurrency=1))
        assert len(asked_messages(server)) == 3
    assert [row.result_type for row in rows] == ["succeeded", "errored", "succeeded"]
    assert (rows[1].error_type, rows[1].attempts, rows[1].cost_usd) == ("invalid_request_error", 1, 0.0)


def test_a_model_that_does_not_exist_fails_once_and_not_once_a_row(store):
    with cp.Sandbox() as server:
        stream = stream_from(
            server, ["a", "b", "c", "d"], store=store, model="gpt-4", preflight=False, max_concurrency=1
        )
        with pytest.raises(cp.ApiError, match=r"404.*gpt-4"):
            list(stream)
        assert len(asked_messages(server)) == 1
        with pytest.raises(cp.InputError, match="gpt-4"):
            stream_from(server, ["a"], store=store, model="gpt-4")
    assert stream.job.status().state == "ended"


@pytest.mark.parametrize(("status", "error"), [(401, cp.ApiError), (402, cp.ApiError), (403, cp.ApiError)])
def test_an_account_that_may_not_ask_ends_the_run_and_keeps_what_is_complete(store, status, error):
    with cp.Sandbox(answer=echo) as server:
        server.fail_next("messages", status, after=2)
        stream = stream_from(server, ["a", "b", "c", "d"], store=store, max_concurrency=1)
        rows = []
        with pytest.raises(error, match=str(status)):
            rows.extend(stream)
        assert stream.job.status().counts.succeeded == 2
        assert len(list(stream_from(server, ["a", "b", "c", "d"], store=store))) == 4
        assert len(asked_messages(server)) == 5


def test_a_spend_limit_ends_the_run(store):
    faults = {"messages": [{"fault": 429, "error_code": "enforced_spend_limit_reached"}]}
    with cp.Sandbox(faults=faults) as server, pytest.raises(cp.ApiError, match="429"):
        list(stream_from(server, ["a", "b"], store=store))


def test_usage_of_all_attempts_is_added_up(store):
    with cp.Sandbox(answer=going_on(TEXT), faults=broken("reset", events=6)) as server:
        with stream_from(server, ["Go"], store=store) as stream:
            (row,) = stream
        (second,) = [line for line in asked_messages(server) if line.fault is None]
        assert second.received_bytes > 0
        assert row.input_tokens == server.usage()["input_tokens"]
    assert stream.job.to_arrow()["attempts"].to_pylist() == [2]
    assert stream.job.status().input_tokens == row.input_tokens
