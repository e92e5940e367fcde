"""Faults ordered for coming operations, as a client meets them."""

import json
import socket
from collections.abc import Iterator

import anthropic
import httpx2
import pytest

from claude_pipeline.sandbox import Sandbox

PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}
REQUESTS = [{"custom_id": f"row_{i}", "params": PARAMS} for i in range(11)]
RESULTS = "/v1/messages/batches/{}/results"
HEADERS = {"authorization": "Bearer any", "anthropic-version": "2026-10-21"}
HEAD = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def client(sandbox) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="any", base_url=sandbox.url, max_retries=0) as client:
        yield client


def lines_of(sandbox, batch):
    with httpx2.stream("GET", f"{sandbox.url}/v1/messages/batches/{batch.id}/results", headers=HEADERS) as response:
        return [json.loads(line) for line in response.iter_lines()]


def test_a_create_dropped_after_is_accepted_and_its_answer_lost(sandbox, client):
    sandbox.fail_next("create", "drop_after")
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.create(requests=REQUESTS)
    assert sandbox.usage()["batches"] == 1
    assert len(client.messages.batches.list().data) == 1


def test_a_create_dropped_before_is_not_accepted(sandbox, client):
    sandbox.fail_next("create", "drop_before")
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.create(requests=REQUESTS)
    assert sandbox.usage()["batches"] == 0
    client.messages.batches.create(requests=REQUESTS)


def test_a_fault_meets_the_operation_it_was_ordered_for_and_no_other(sandbox, client):
    sandbox.fail_next("create", 500, after=1, times=2)
    batch = client.messages.batches.create(requests=REQUESTS)
    client.messages.batches.retrieve(batch.id)
    for _ in range(2):
        with pytest.raises(anthropic.InternalServerError):
            client.messages.batches.create(requests=REQUESTS)
    client.messages.batches.create(requests=REQUESTS)


@pytest.mark.parametrize(
    ("status", "error_type", "error_class"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (402, "billing_error", anthropic.PaymentRequiredError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (413, "request_too_large", anthropic.ContentTooLargeError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.OverloadedError),
    ],
)
def test_a_create_is_refused_with_the_status_asked_for(sandbox, client, status, error_type, error_class):
    sandbox.fail_next("create", status, retry_after=7)
    with pytest.raises(error_class) as refused:
        client.messages.batches.create(requests=REQUESTS)
    assert refused.value.body["error"]["type"] == error_type
    assert refused.value.response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert sandbox.usage()["batches"] == 0


def test_a_missing_line_is_missing_once(sandbox, client):
    batch = client.messages.batches.create(requests=REQUESTS)
    sandbox.fail_next("results", "missing_line")
    assert [len(lines_of(sandbox, batch)) for _ in range(2)] == [10, 11]


def test_a_duplicate_line_is_sent_twice(sandbox, client):
    batch = client.messages.batches.create(requests=REQUESTS)
    sandbox.fail_next("results", "duplicate_line")
    ids = [line["custom_id"] for line in lines_of(sandbox, batch)]
    assert (len(ids), len(set(ids))) == (12, 11)


def test_a_garbage_line_is_no_json(sandbox, client):
    batch = client.messages.batches.create(requests=REQUESTS)
    sandbox.fail_next("results", "garbage_line")
    with pytest.raises(json.JSONDecodeError):
        lines_of(sandbox, batch)


def test_cut_results_end_within_a_line_and_the_connection_breaks(sandbox, client):
    batch = client.messages.batches.create(requests=REQUESTS)
    sandbox.fail_next("results", "cut", times=2)
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2]))) as connection:
        connection.sendall(f"GET {RESULTS.format(batch.id)} HTTP/1.1\r\nhost: x\r\n{HEAD}\r\n".encode())
        received = connection.makefile("rb").read()
    assert received.count(b'{"custom_id"') == 6
    assert not received.endswith((b"}", b"}\n", b"0\r\n\r\n"))
    with pytest.raises(httpx2.RemoteProtocolError):
        lines_of(sandbox, batch)
    assert len(lines_of(sandbox, batch)) == 11


@pytest.mark.parametrize(
    ("operation", "fault"), [("create", "cut"), ("invent", 500), ("create", "explode"), ("create", 200)]
)
def test_a_fault_that_cannot_happen_is_refused(operation, fault):
    with pytest.raises(ValueError, match="There is: "):
        Sandbox().fail_next(operation, fault)


def test_retrieve_and_list_fail_on_order_too(sandbox, client):
    batch = client.messages.batches.create(requests=REQUESTS)
    sandbox.fail_next("retrieve", 404)
    sandbox.fail_next("list", "drop_before")
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.list()
    assert client.messages.batches.list().data[0].id == batch.id
