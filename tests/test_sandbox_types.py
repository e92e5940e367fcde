"""Every answer of the sandbox, key for key, against the SDK's own types."""

import json
from collections.abc import Iterator
from functools import cache

import httpx2
import pytest
from anthropic import Anthropic, APIStatusError
from anthropic.pagination import SyncPage
from anthropic.types import ErrorResponse, Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from anthropic.types.beta.messages import BetaMessageBatch, BetaMessageBatchIndividualResponse
from anthropic.types.messages import DeletedMessageBatch, MessageBatch, MessageBatchIndividualResponse
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from pydantic import TypeAdapter

from claude_pipeline.sandbox import Sandbox

DAY = 24 * 60 * 60
PARAMS = {
    "model": "claude-haiku-4-5",
    "max_tokens": 2_048,
    "messages": [{"role": "user", "content": "Grüße, 你好 🙂. More."}],
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "weather", "description": "Tell the weather.", "input_schema": SCHEMA}
DOCUMENT = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "Grass is green. The sky is blue."},
    "citations": {"enabled": True},
}
CACHED = {"type": "text", "text": "A long prefix. " * 1_000, "cache_control": {"type": "ephemeral"}}
ASKED = {
    "plain": {},
    "cut at max_tokens": {"max_tokens": 1},
    "stop sequence": {"stop_sequences": ["你好"]},
    "system": {"system": "Be brief."},
    "tool": {"tools": [TOOL]},
    "tool by name": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1_024}},
    "adaptive thinking": {"thinking": {"type": "adaptive"}},
    "JSON": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "cached prefix": {"system": [CACHED]},
    "citations": {
        "messages": [{"role": "user", "content": [DOCUMENT, {"type": "text", "text": "What color is the sky?"}]}]
    },
}
# The SDK's union of errors leaves these out; its exceptions know them.
UNLISTED = {"conflict_error", "request_too_large"}
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
OPERATIONS = {
    "create": lambda client: client.messages.batches.create(requests=[{"custom_id": "a", "params": PARAMS}]),
    "retrieve": lambda client: client.messages.batches.retrieve("any"),
    "list": lambda client: client.messages.batches.list(),
    "cancel": lambda client: client.messages.batches.cancel("any"),
    "delete": lambda client: client.messages.batches.delete("any"),
    "messages": lambda client: client.messages.create(**PARAMS),
    "count_tokens": lambda client: client.messages.count_tokens(model="claude-haiku-4-5", messages=PARAMS["messages"]),
    "models": lambda client: client.models.list(),
}


def closed(schema):
    """Demand every key that the SDK's type knows, and allow no other."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema:
        inner |= {"required": sorted(schema["properties"]), "additionalProperties": False}
    return inner


@cache
def validator(expected):
    return Draft202012Validator(closed(TypeAdapter(expected).json_schema()))


def check(content, expected):
    error = best_match(validator(expected).iter_errors(content))
    assert error is None, f"{error.json_path}: {error.message} in {content}"


def checked(response, expected):
    """Check an answer as it came over the wire, and return what the strict client makes of it."""
    check(response.http_response.json(), expected)
    return response.parse()


def open_client(sandbox):
    return Anthropic(base_url=sandbox.url, api_key="any", max_retries=0, _strict_response_validation=True)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client(sandbox) -> Iterator[Anthropic]:
    with open_client(sandbox) as client:
        yield client


def create(client, *custom_ids):
    requests = [{"custom_id": custom_id, "params": PARAMS} for custom_id in custom_ids]
    return checked(client.messages.batches.with_raw_response.create(requests=requests), MessageBatch).id


def test_the_check_finds_a_key_that_is_missing_and_one_that_is_too_many():
    deleted = {"id": "msgbatch_1", "type": "message_batch_deleted"}
    check(deleted, DeletedMessageBatch)
    for wrong in ({"id": "msgbatch_1"}, {**deleted, "more": None}, {**deleted, "type": "other"}):
        with pytest.raises(AssertionError, match="in "):
            check(wrong, DeletedMessageBatch)


def test_a_batch_is_of_its_type_in_every_state():
    with Sandbox(batch_seconds=60) as sandbox, open_client(sandbox) as client:
        batches = client.messages.batches.with_raw_response
        batch_id = create(client, "a", "b")
        assert checked(batches.retrieve(batch_id), MessageBatch).processing_status == "in_progress"
        assert checked(batches.cancel(batch_id), MessageBatch).processing_status == "canceling"
        assert checked(batches.retrieve(batch_id), MessageBatch).processing_status == "ended"
        sandbox.advance_clock(29 * DAY)
        assert checked(batches.retrieve(batch_id), MessageBatch).archived_at
        assert checked(batches.delete(batch_id), DeletedMessageBatch).id == batch_id


def test_a_page_is_of_its_type_empty_in_the_middle_and_at_the_end():
    with Sandbox() as sandbox, open_client(sandbox) as client:
        batches = client.messages.batches.with_raw_response
        assert checked(batches.list(), SyncPage[MessageBatch]).data == []
        first, second, _ = [create(client, "a") for _ in range(3)]
        assert checked(batches.list(limit=1, before_id=first), SyncPage[MessageBatch]).data[0].id == second
        assert checked(batches.list(limit=1, after_id=second), SyncPage[MessageBatch]).has_more is False


FATES = {"succeeded", "errored", "canceled", "expired"}


def decide(custom_id, _params, _attempt):
    return "api_error" if custom_id == "errored" else custom_id


def test_a_result_is_of_its_type_whatever_became_of_the_request():
    with Sandbox(rows=decide) as sandbox, open_client(sandbox) as client:
        batch_id = create(client, *FATES)
        client.messages.batches.retrieve(batch_id)
        raw = client.messages.batches.with_raw_response.results(batch_id)
        assert {line.result.type for line in raw.parse()} == FATES
        lines = [json.loads(line) for line in read(client, f"/v1/messages/batches/{batch_id}/results").splitlines()]
    for line in lines:
        check(line, MessageBatchIndividualResponse)
    assert {line["result"]["type"] for line in lines} == FATES


def read(client, path, **options):
    """Return a body as it comes over the wire."""
    method = "POST" if "json" in options else "GET"
    headers = {"authorization": "Bearer any", "anthropic-version": "2026-10-21"}
    return httpx2.request(method, f"{client.base_url}".rstrip("/") + path, headers=headers, **options).text


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_a_message_is_of_its_type(client, asked):
    message = checked(client.messages.with_raw_response.create(**{**PARAMS, **asked}), Message)
    assert message.content


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_an_event_of_a_stream_is_of_its_type(client, asked):
    params = {**PARAMS, **asked}
    records = [
        record.split("\n")
        for record in read(client, "/v1/messages", json={**params, "stream": True}).split("\n\n")[:-1]
    ]
    for name, data in records:
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event != {"type": "ping"}:
            check(event, RawMessageStreamEvent)
    with client.messages.stream(**params) as stream:
        assert stream.get_final_message().stop_reason


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_a_result_of_a_batch_is_of_its_type_whatever_was_asked(client, asked):
    batch = client.messages.batches.create(requests=[{"custom_id": "a", "params": {**PARAMS, **asked}}])
    client.messages.batches.retrieve(batch.id)
    line = json.loads(read(client, f"/v1/messages/batches/{batch.id}/results"))
    check(line, MessageBatchIndividualResponse)
    assert line["result"]["type"] == "succeeded"
    assert line["result"]["message"]["usage"]["service_tier"] == "batch"


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_a_count_of_tokens_is_of_its_type(client, asked):
    counted = {key: value for key, value in {**PARAMS, **asked}.items() if key not in {"max_tokens", "stop_sequences"}}
    assert checked(client.messages.with_raw_response.count_tokens(**counted), MessageTokensCount).input_tokens


def test_models_are_of_their_type(client):
    models = client.models.with_raw_response
    for model in checked(models.list(), SyncPage[ModelInfo]).data:
        assert checked(models.retrieve(model.id), ModelInfo) == model


def test_what_the_beta_client_asks_for_is_of_its_types(client):
    batches = client.beta.messages.batches.with_raw_response
    created = checked(batches.create(requests=[{"custom_id": "a", "params": PARAMS}]), BetaMessageBatch)
    checked(batches.retrieve(created.id), BetaMessageBatch)
    checked(batches.list(limit=1), SyncPage[BetaMessageBatch])
    (line,) = client.beta.messages.batches.results(created.id)
    assert isinstance(line, BetaMessageBatchIndividualResponse)


def check_error(response, *, status, error_type):
    content = response.json()
    assert (response.status_code, content["error"]["type"]) == (status, error_type)
    assert content["request_id"] == response.headers["request-id"]
    check(
        {**content, "error": {**content["error"], "type": "api_error"}} if error_type in UNLISTED else content,
        ErrorResponse,
    )


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("status", "error_type"), ERRORS.items())
def test_an_error_is_of_its_type_at_every_endpoint(sandbox, client, operation, status, error_type):
    sandbox.fail_next(operation, status)
    with pytest.raises(APIStatusError) as raised:
        OPERATIONS[operation](client)
    check_error(raised.value.response, status=status, error_type=error_type)
    assert raised.value.type == error_type


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages/batches/nobody", 404),
        ("GET", "/v1/messages/batches/nobody/results", 404),
        ("DELETE", "/v1/messages/batches/nobody", 404),
        ("POST", "/v1/messages/batches/nobody/cancel", 404),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/nowhere", 404),
        ("PUT", "/v1/messages", 405),
        ("POST", "/v1/messages", 400),
        ("POST", "/v1/messages/batches", 400),
        ("GET", "/v1/models?limit=0", 400),
    ],
)
def test_a_refusal_is_of_the_type_of_errors(sandbox, method, path, status):
    headers = {"authorization": "Bearer any", "anthropic-version": "2026-10-21"}
    response = httpx2.request(method, f"{sandbox.url}{path}", headers=headers)
    check_error(response, status=status, error_type="not_found_error" if status == 404 else "invalid_request_error")
