"""The sandbox as the official SDK sees it, every response checked against the SDK's own types."""

from collections import Counter
from collections.abc import Iterator
from math import inf

import anthropic
import httpx2
import pytest
from anthropic.types import Message
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from pydantic import TypeAdapter

from claude_pipeline.sandbox import Sandbox

MODEL = "claude-haiku-4-5"
HOUR = 3600
DAY = 24 * HOUR
LINE = TypeAdapter(MessageBatchIndividualResponse)


def strict_client(sandbox):
    return anthropic.Anthropic(api_key="any", base_url=sandbox.url, max_retries=0, _strict_response_validation=True)


def ask(custom_id, text="Say hello. Then more.", **params):
    messages = [{"role": "user", "content": text}]
    return {
        "custom_id": custom_id,
        "params": {"model": MODEL, "max_tokens": 100, "messages": messages, **params},
    }


def results_of(client, batch_id):
    """Return the results by custom_id; every line is a valid response without an unknown key."""
    raw = client.get(f"/v1/messages/batches/{batch_id}/results", cast_to=httpx2.Response)
    assert raw.headers["content-type"] == "application/x-jsonl"
    for line in raw.content.splitlines():
        LINE.validate_json(line, strict=False)
    return {line.custom_id: line.result for line in client.messages.batches.results(batch_id)}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def client(sandbox) -> Iterator[anthropic.Anthropic]:
    with strict_client(sandbox) as client:
        yield client


def test_a_batch_goes_from_in_progress_to_ended_and_its_results_answer_every_request(client):
    created = client.messages.batches.create(requests=[ask(f"row_{i}", f"Fact {i}. Rest.") for i in range(30)])
    assert created.processing_status == "in_progress"
    assert created.request_counts.processing == 30
    assert created.results_url is None

    ended = client.messages.batches.retrieve(created.id)
    assert ended.processing_status == "ended"
    assert (ended.request_counts.processing, ended.request_counts.succeeded) == (0, 30)
    assert ended.results_url == f"{str(client.base_url).rstrip('/')}/v1/messages/batches/{created.id}/results"

    texts = {custom_id: result.message.content[0].text for custom_id, result in results_of(client, created.id).items()}
    assert texts == {f"row_{i}": f"Fact {i}." for i in range(30)}


def test_every_key_of_a_batch_is_present_from_the_start(client):
    batch = client.messages.batches.create(requests=[ask("a")])
    assert set(batch.to_dict(exclude_unset=True)) == set(MessageBatch.model_fields)


def test_every_key_of_a_message_and_its_usage_is_present(client):
    batch = client.messages.batches.create(requests=[ask("a")])
    message = results_of(client, batch.id)["a"].message.to_dict(exclude_unset=True)
    assert set(message) == set(Message.model_fields)
    assert set(message["usage"]) == set(Message.model_fields["usage"].annotation.model_fields)
    assert message["usage"]["service_tier"] == "batch"


def test_all_four_result_types_pass_the_strict_client():
    fates = {"good": "succeeded", "bad": "overloaded_error", "late": "expired", "stopped": "canceled"}
    with (
        Sandbox(rows=lambda custom_id, _params, _attempt: fates[custom_id]) as sandbox,
        strict_client(sandbox) as client,
    ):
        batch = client.messages.batches.create(requests=[ask(custom_id) for custom_id in fates])
        counts = client.messages.batches.retrieve(batch.id).request_counts
        results = results_of(client, batch.id)

    assert (counts.succeeded, counts.errored, counts.expired, counts.canceled) == (1, 1, 1, 1)
    assert {key: result.type for key, result in results.items()} == {
        "good": "succeeded",
        "bad": "errored",
        "late": "expired",
        "stopped": "canceled",
    }
    assert results["bad"].error.error.type == "overloaded_error"
    assert results["bad"].error.request_id.startswith("req_")


def test_results_are_shuffled_and_the_same_at_every_fetch(client):
    asked = [f"row_{i}" for i in range(50)]
    batch = client.messages.batches.create(requests=[ask(custom_id) for custom_id in asked])
    client.messages.batches.retrieve(batch.id)
    first = [line.custom_id for line in client.messages.batches.results(batch.id)]
    second = [line.custom_id for line in client.messages.batches.results(batch.id)]
    assert first == second != asked
    assert sorted(first) == sorted(asked)


def test_batches_are_listed_newest_first_and_paged_in_both_directions(client):
    ids = [client.messages.batches.create(requests=[ask("a")]).id for _ in range(5)][::-1]
    listed = client.messages.batches.list(limit=2)
    assert [batch.id for batch in listed.data] == ids[:2]
    assert (listed.has_more, listed.first_id, listed.last_id) == (True, ids[0], ids[1])
    assert [batch.id for batch in client.messages.batches.list(limit=2)] == ids
    before = client.messages.batches.list(limit=2, before_id=ids[3])
    assert ([batch.id for batch in before.data], before.has_more) == (ids[1:3], True)
    assert not client.messages.batches.list(limit=3, before_id=ids[3]).has_more
    assert client.messages.batches.list(after_id=ids[-1]).data == []


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": "x"},
        {"after_id": "x"},
        {"after_id": "x", "before_id": "y"},
    ],
)
def test_a_wrong_page_is_an_invalid_request(client, query):
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.list(**query)


def test_a_batch_in_progress_ends_when_the_clock_reaches_its_time():
    with Sandbox(batch_seconds=HOUR) as sandbox, strict_client(sandbox) as client:
        batch = client.messages.batches.create(requests=[ask("a")])
        assert client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
        sandbox.advance_clock(HOUR)
        ended = client.messages.batches.retrieve(batch.id)
    assert ended.processing_status == "ended"
    assert (ended.ended_at - batch.created_at).total_seconds() == pytest.approx(HOUR)
    assert (ended.expires_at - batch.created_at).total_seconds() == pytest.approx(DAY)


def test_the_clock_is_also_stepped_over_http():
    with Sandbox(batch_seconds=HOUR) as sandbox, strict_client(sandbox) as client:
        batch = client.messages.batches.create(requests=[ask("a")])
        client.post("/_sandbox/clock", body={"advance": HOUR}, cast_to=httpx2.Response)
        assert client.messages.batches.retrieve(batch.id).processing_status == "ended"
        with pytest.raises(anthropic.BadRequestError):
            client.post("/_sandbox/clock", body={"advance": -1}, cast_to=httpx2.Response)


def test_what_is_left_after_24_hours_is_expired_and_not_billed():
    with Sandbox(batch_seconds=inf) as sandbox, strict_client(sandbox) as client:
        batch = client.messages.batches.create(requests=[ask("a"), ask("b")])
        sandbox.advance_clock(DAY)
        assert client.messages.batches.retrieve(batch.id).request_counts.expired == 2
        assert sandbox.usage()["answers_billed"] == 0


@pytest.mark.parametrize("stop", ["cancel", "expire"])
def test_a_batch_stopped_midway_has_answered_about_as_much_as_of_its_time_had_passed(stop):
    with Sandbox(batch_seconds=2 * DAY) as sandbox, strict_client(sandbox) as client:
        batch = client.messages.batches.create(requests=[ask(f"{row}") for row in range(200)])
        sandbox.advance_clock(DAY / 2 if stop == "cancel" else DAY)
        if stop == "cancel":
            client.messages.batches.cancel(batch.id)
        counts = client.messages.batches.retrieve(batch.id).request_counts
        kinds = Counter(line.result.type for line in client.messages.batches.results(batch.id))
        billed = sandbox.usage()["answers_billed"]
    left = counts.canceled if stop == "cancel" else counts.expired
    assert counts.succeeded + left == 200
    assert counts.succeeded == kinds["succeeded"] == billed
    assert abs(counts.succeeded - (50 if stop == "cancel" else 100)) < 40


def test_results_are_gone_after_29_days_and_the_batch_says_so(sandbox, client):
    batch = client.messages.batches.create(requests=[ask("a")])
    sandbox.advance_clock(29 * DAY)
    assert client.messages.batches.retrieve(batch.id).archived_at is not None
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.results(batch.id)


def test_a_canceled_batch_is_canceling_and_has_ended_at_the_next_look():
    with Sandbox(batch_seconds=HOUR) as sandbox, strict_client(sandbox) as client:
        batch = client.messages.batches.create(requests=[ask("a"), ask("b")])
        canceling = client.messages.batches.cancel(batch.id)
        assert canceling.processing_status == "canceling"
        assert canceling.cancel_initiated_at is not None
        assert canceling.request_counts.processing == 2
        ended = client.messages.batches.list().data[0]
        assert (ended.processing_status, ended.request_counts.canceled) == ("ended", 2)
        assert {result.type for result in results_of(client, batch.id).values()} == {"canceled"}


def test_a_canceled_batch_keeps_the_answers_that_were_under_way():
    done = {"a": "succeeded"}
    with Sandbox(batch_seconds=HOUR, rows=lambda key, _params, _attempt: done.get(key)) as sandbox:
        client = strict_client(sandbox)
        batch = client.messages.batches.create(requests=[ask("a"), ask("b")])
        client.messages.batches.cancel(batch.id)
        counts = client.messages.batches.retrieve(batch.id).request_counts
        client.close()
    assert (counts.succeeded, counts.canceled) == (1, 1)


def test_a_batch_that_ended_cannot_be_canceled_any_more(client):
    batch = client.messages.batches.create(requests=[ask("a")])
    after = client.messages.batches.cancel(batch.id)
    assert (after.processing_status, after.cancel_initiated_at) == ("ended", None)


def test_a_batch_is_deleted_only_after_it_ended():
    with Sandbox(batch_seconds=HOUR) as sandbox, strict_client(sandbox) as client:
        batch = client.messages.batches.create(requests=[ask("a")])
        with pytest.raises(anthropic.BadRequestError, match="cancel it first"):
            client.messages.batches.delete(batch.id)
        sandbox.advance_clock(HOUR)
        assert client.messages.batches.delete(batch.id).id == batch.id
        with pytest.raises(anthropic.NotFoundError):
            client.messages.batches.retrieve(batch.id)


def test_the_results_of_a_batch_in_progress_are_not_found():
    with Sandbox(batch_seconds=HOUR) as sandbox, strict_client(sandbox) as client:
        batch = client.messages.batches.create(requests=[ask("a")])
        with pytest.raises(anthropic.NotFoundError):
            client.get(f"/v1/messages/batches/{batch.id}/results", cast_to=httpx2.Response)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"model": "gpt-4"}, "model"),
        ({"model": 7}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.0.content.0.text"),
        ({"messages": ["x"]}, "messages.0"),
        ({"system": 3}, "system"),
        ({"stream": True}, "stream"),
        ({"stream": "no"}, "stream"),
        ({"speed": "fast"}, "speed"),
        ({"temperature": 0.5}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [" "]}, "stop_sequences"),
        ({"tempreature": 1}, "tempreature"),
    ],
)
def test_wrong_params_show_only_when_the_request_is_processed(client, wrong, names):
    batch = client.messages.batches.create(requests=[ask("good"), ask("bad", **wrong)])
    counts = client.messages.batches.retrieve(batch.id).request_counts
    assert (counts.succeeded, counts.errored) == (1, 1)
    error = results_of(client, batch.id)["bad"].error.error
    assert error.type == "invalid_request_error"
    assert error.message.startswith(f"{names}:")


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
def test_missing_params_are_named(client, missing):
    request = ask("a")
    del request["params"][missing]
    batch = client.messages.batches.create(requests=[request])
    client.messages.batches.retrieve(batch.id)
    assert results_of(client, batch.id)["a"].error.error.message == f"{missing}: Field required"


def test_the_older_api_version_and_its_key_header_still_accept_sampling_parameters(sandbox):
    headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
    with httpx2.Client(base_url=sandbox.url, headers=headers) as client:
        body = {"requests": [ask("a", temperature=0.5)]}
        batch = client.post("/v1/messages/batches", json=body).json()
        ended = client.get(f"/v1/messages/batches/{batch['id']}").json()
    assert ended["request_counts"]["succeeded"] == 1


def test_a_message_is_answered_at_once_and_the_same_every_time(client):
    first, second = (client.messages.create(**ask("a", "One fact. Two.")["params"]) for _ in range(2))
    assert first.content[0].text == "One fact."
    assert first.stop_reason == "end_turn"
    assert first.usage.service_tier == "standard"
    assert first == second


def test_an_answer_is_cut_at_max_tokens(client):
    message = client.messages.create(**ask("a", "A rather long sentence without an end", max_tokens=2)["params"])
    assert (message.content[0].text, message.stop_reason) == ("A rather", "max_tokens")
    assert message.usage.output_tokens == 2


def test_an_answer_ends_before_a_stop_sequence(client):
    message = client.messages.create(**ask("a", "One and two", stop_sequences=["and", "two"])["params"])
    assert (message.content[0].text, message.stop_reason, message.stop_sequence) == ("One ", "stop_sequence", "and")


def test_a_message_streams_the_same_text_as_it_answers(client):
    params = ask("a", "Ünï wörds 🎉 in a sentence that takes more than one delta.")["params"]
    with client.messages.stream(**params) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    plain = client.messages.create(**params)
    assert text == plain.content[0].text
    assert final.content[0].text == text
    assert (final.stop_reason, final.usage.output_tokens) == (plain.stop_reason, plain.usage.output_tokens)


def test_counting_tokens_agrees_with_the_usage_of_the_answer(client):
    params = {**ask("a", [{"type": "text", "text": "Words. " * 20}])["params"], "system": "Be brief."}
    answered = client.messages.create(**params)
    del params["max_tokens"]
    assert client.messages.count_tokens(**params).input_tokens == answered.usage.input_tokens


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(anthropic.NotFoundError, match="gpt-4"):
        client.messages.create(**ask("a", model="gpt-4")["params"])
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("gpt-4")


def test_models_are_listed_and_each_is_retrieved(client):
    models = list(client.models.list(limit=3))
    assert MODEL in {model.id for model in models}
    assert [client.models.retrieve(model.id) for model in models] == models


def test_a_function_may_write_the_answers():
    with Sandbox(answer=lambda params: params["system"].upper()) as sandbox, strict_client(sandbox) as client:
        message = client.messages.create(**ask("a", system="be loud")["params"])
    assert message.content[0].text == "BE LOUD"


def test_rates_meet_the_same_requests_every_time_and_a_second_attempt_may_pass():
    ids = [f"row_{i}" for i in range(400)]

    def outcomes():
        with Sandbox(error_rates={"api_error": 0.2}, expire_rate=0.1) as sandbox, strict_client(sandbox) as client:
            batches = [client.messages.batches.create(requests=[ask(key) for key in ids]) for _ in range(2)]
            return [{key: result.type for key, result in results_of(client, batch.id).items()} for batch in batches]

    first, second = outcomes()
    assert [first, second] == outcomes()
    assert 40 < sum(kind == "errored" for kind in first.values()) < 120
    assert 15 < sum(kind == "expired" for kind in first.values()) < 70
    assert any(first[key] != "succeeded" and second[key] == "succeeded" for key in ids)


def test_a_row_function_sees_the_attempt_and_can_say_that_credit_is_too_low():
    fates = {1: "credit_too_low", 2: "rate_limit_error", 3: None}
    with Sandbox(rows=lambda _key, _params, attempt: fates[attempt]) as sandbox, strict_client(sandbox) as client:
        batches = [client.messages.batches.create(requests=[ask("a")]) for _ in fates]
        results = [results_of(client, batch.id)["a"] for batch in batches]
    assert "credit balance is too low" in results[0].error.error.message
    assert results[1].error.error.type == "rate_limit_error"
    assert results[2].type == "succeeded"


def test_usage_counts_what_was_accepted_and_what_was_billed(sandbox, client):
    for custom_ids in (["a", "b"], ["b", "c"]):
        client.messages.batches.create(requests=[ask(custom_id, "12345678") for custom_id in custom_ids])
    client.messages.create(**ask("x", "12345678")["params"])
    usage = sandbox.usage()
    assert usage == {
        "batches": 2,
        "requests_accepted": 4,
        "distinct_requests": 3,
        "answers_billed": 4,
        "answers_billed_twice": 1,
        "input_tokens": 10,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 10,
        "messages": 1,
    }
    assert httpx2.get(f"{sandbox.url}/_sandbox/usage").json() == usage


def test_failed_requests_are_not_billed():
    with Sandbox(error_rates={"api_error": 1.0}) as sandbox, strict_client(sandbox) as client:
        client.messages.batches.create(requests=[ask("a")])
        assert sandbox.usage()["answers_billed"] == 0
        assert sandbox.usage()["requests_accepted"] == 1


def test_the_requests_are_kept_byte_for_byte(sandbox, client):
    params = b'{ "messages":[{"role":"user","content":"\\u00e9 \xc3\xa9"}],"model":"claude-x", "max_tokens":1}'
    body = b'{"requests":[{"custom_id":"a","params":' + params + b"}]}"
    batch = client.post("/v1/messages/batches", content=body, cast_to=MessageBatch)
    (received,) = sandbox.requests(batch.id)
    assert (received.batch_id, received.custom_id, received.attempt) == (batch.id, "a", 1)
    assert received.params == params
    line = httpx2.get(f"{sandbox.url}/_sandbox/requests", params={"batch_id": batch.id}).content
    assert params in line
    assert len(list(sandbox.requests())) == 1


def test_more_requests_than_the_queue_holds_are_refused_until_some_have_ended():
    with Sandbox(batch_seconds=90, max_queued_requests=3) as sandbox, strict_client(sandbox) as client:
        client.messages.batches.create(requests=[ask("a"), ask("b")])
        with pytest.raises(anthropic.RateLimitError) as refused:
            client.messages.batches.create(requests=[ask("c"), ask("d")])
        assert refused.value.response.headers["retry-after"] == "90"
        sandbox.advance_clock(90)
        client.messages.batches.create(requests=[ask("c"), ask("d")])
        assert sandbox.usage()["requests_accepted"] == 4
