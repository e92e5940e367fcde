"""Faults of operations and rows, as a client meets them, and what they cost."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import anthropic
import httpx2
import pytest

from claude_pipeline.sandbox import Sandbox
from claude_pipeline.sandbox.faults import NAMES, SECTIONS

PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}
REQUESTS = [{"custom_id": f"row_{i}", "params": PARAMS} for i in range(11)]
BATCHES = "/v1/messages/batches"
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


@pytest.fixture
def plan(sandbox):
    return lambda **sections: httpx2.post(f"{sandbox.url}/_sandbox/faults", json=sections).raise_for_status()


def accepted(sandbox):
    return sandbox.usage()["batches"]


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def create_body(size=0):
    return json.dumps({"requests": REQUESTS}).encode() + b" " * size


def send(sandbox, body, *, announced):
    """Begin a create on a socket of our own, and return it."""
    connection = socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2])))
    connection.sendall(f"POST {BATCHES} HTTP/1.1\r\nhost: x\r\n{HEAD}content-length: {announced}\r\n\r\n".encode())
    connection.sendall(body)
    return connection


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


def test_an_answer_that_is_lost_is_lost_when_it_is_a_refusal_too(sandbox, client):
    sandbox.fail_next("retrieve", "drop_after")
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.retrieve("nothing")


@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_a_create_may_be_accepted_and_refused_all_the_same(sandbox, client, plan, status):
    plan(create=[{"fault": status, "accepted": True, "times": 1}])
    with pytest.raises(anthropic.InternalServerError):
        client.messages.batches.create(requests=REQUESTS)
    assert (accepted(sandbox), len(client.messages.batches.list().data)) == (1, 1)


def test_a_create_that_an_impatient_client_retries_is_accepted_every_time(sandbox, plan):
    plan(create=[{"fault": 503, "accepted": True}])
    client = anthropic.Anthropic(api_key="any", base_url=sandbox.url, max_retries=1)
    with client, pytest.raises(anthropic.InternalServerError):
        client.messages.batches.create(requests=REQUESTS)
    assert sandbox.usage()["answers_billed_twice"] == 11


def test_a_storm_of_429_says_when_to_come_back_and_passes(sandbox, client, plan):
    plan(create=[{"fault": 429, "times": 3, "retry_after": 30}])
    for _ in range(3):
        with pytest.raises(anthropic.RateLimitError) as refused:
            client.messages.batches.create(requests=REQUESTS)
        assert refused.value.response.headers["retry-after"] == "30"
    client.messages.batches.create(requests=REQUESTS)
    assert accepted(sandbox) == 1


def test_a_spend_cap_says_so_and_not_when_to_come_back(sandbox, client, plan):
    plan(create=[{"fault": 429, "error_code": "enforced_spend_limit_reached", "message": "You have reached it."}])
    with pytest.raises(anthropic.RateLimitError) as refused:
        client.messages.batches.create(requests=REQUESTS)
    assert "retry-after" not in refused.value.response.headers
    assert refused.value.body["error"] == {
        "type": "rate_limit_error",
        "message": "You have reached it.",
        "details": {"error_code": "enforced_spend_limit_reached"},
    }
    assert accepted(sandbox) == 0


def test_a_status_may_come_with_another_type(client, plan):
    plan(create=[{"fault": 403, "error_type": "billing_error"}])
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        client.messages.batches.create(requests=REQUESTS)
    assert refused.value.type == "billing_error"


def test_a_late_answer_is_accepted_whether_the_client_waits_or_not(sandbox, client, plan):
    plan(create=[{"fault": "late", "seconds": 0.1, "positions": [1]}, {"fault": "late", "seconds": 9_999}])
    client.messages.batches.create(requests=REQUESTS)
    assert accepted(sandbox) == 1
    with pytest.raises(anthropic.APITimeoutError):
        client.messages.batches.create(requests=REQUESTS, timeout=0.5)
    assert accepted(sandbox) == 2


def test_a_late_answer_may_be_a_refusal(client, plan):
    plan(retrieve=[{"fault": "late", "seconds": 0.01}])
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve("nothing")


@pytest.mark.parametrize("size", [0, 300_000])
def test_what_hangs_is_not_done_and_others_are_answered_meanwhile(sandbox, client, plan, size):
    plan(create=[{"fault": "hang"}])
    with send(sandbox, create_body(size), announced=len(create_body(size))) as connection:
        assert client.messages.batches.list().data == []
        wait_until(lambda: httpx2.get(f"{sandbox.url}/_sandbox/faults").json()["create"][0]["met"])
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert accepted(sandbox) == 0


def test_a_poll_hangs_until_the_client_gives_up(client, plan):
    batch = client.messages.batches.create(requests=REQUESTS)
    plan(poll=[{"fault": "hang", "times": 1}])
    with pytest.raises(anthropic.APITimeoutError):
        client.messages.batches.retrieve(batch.id, timeout=0.1)
    assert client.messages.batches.retrieve(batch.id).request_counts.succeeded == 11


def test_a_create_may_be_accepted_after_its_connection_ended(sandbox, client, plan):
    plan(create=[{"fault": "accept_late", "seconds": 0.3, "times": 1}])
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.batches.create(requests=REQUESTS)
    assert accepted(sandbox) == 0
    wait_until(lambda: accepted(sandbox) == 1)
    batch = client.messages.batches.list().data[0]
    assert (batch.request_counts.succeeded, len(lines_of(sandbox, batch))) == (11, 11)


def test_what_is_refused_late_does_no_harm(sandbox, plan, caplog):
    plan(create=[{"fault": "accept_late", "seconds": 0, "times": 1}])
    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.post(f"{sandbox.url}{BATCHES}", content=b"nonsense", headers=HEADERS)
    assert httpx2.get(f"{sandbox.url}/_sandbox/usage").json()["batches"] == 0
    assert [record for record in caplog.records if record.name in {"asyncio", "uvicorn.error"}] == []


@pytest.mark.parametrize("size", [0, 300_000])
def test_a_slow_upload_is_accepted_once_it_is_whole(sandbox, client, plan, size):
    plan(create=[{"fault": "slow_upload", "bytes_per_second": 1_000_000}])
    assert client.post(BATCHES, content=create_body(size), cast_to=httpx2.Response).status_code == 200
    assert accepted(sandbox) == 1


def test_an_upload_too_slow_for_the_client_is_not_accepted(sandbox, client, plan):
    plan(create=[{"fault": "slow_upload", "bytes_per_second": 100, "times": 1}])
    with pytest.raises(anthropic.APITimeoutError):
        client.messages.batches.create(requests=REQUESTS, timeout=0.1)
    client.messages.batches.create(requests=REQUESTS)
    assert accepted(sandbox) == 1


@pytest.mark.parametrize("size", [0, 300_000, 3_000_000])
def test_an_upload_is_reset_midway(sandbox, client, plan, size):
    plan(create=[{"fault": "reset_upload", "times": 1}])
    with pytest.raises(anthropic.APIConnectionError):
        client.post(BATCHES, content=create_body(size), cast_to=httpx2.Response)
    assert accepted(sandbox) == 0
    client.messages.batches.create(requests=REQUESTS)


def test_an_upload_is_reset_once_half_of_it_has_come(sandbox, plan):
    plan(create=[{"fault": "reset_upload"}])
    body = create_body()
    half = len(body) // 2
    with send(sandbox, body[: half - 1], announced=len(body)) as connection:
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(20)
        connection.sendall(body[half - 1 : half + 1])
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert accepted(sandbox) == 0


@pytest.mark.parametrize("faults", [{"fault": "hang"}, {"fault": "late", "seconds": 9_999}])
@pytest.mark.parametrize("extra", [{"fault": "slow_upload", "bytes_per_second": 1}, {"fault": "accept_late"}])
def test_the_sandbox_stops_at_once_whatever_waits(faults, extra):
    extra = {"seconds": 9_999, **extra} if extra["fault"] == "accept_late" else extra
    with Sandbox(faults={"create": [{**extra, "positions": [1, 2]}, faults]}) as sandbox:
        body = create_body(100_000)
        waiting = [send(sandbox, body, announced=len(body) + number % 2) for number in range(6)]
        wait_until(lambda: httpx2.get(f"{sandbox.url}/_sandbox/faults").json()["create"][1]["met"])
    for connection in waiting:
        connection.close()


def test_a_batch_is_unknown_right_after_its_create(sandbox, client, plan):
    plan(retrieve=[{"fault": 404, "positions": [1]}])
    batch = client.messages.batches.create(requests=REQUESTS)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)
    assert client.messages.batches.retrieve(batch.id).id == batch.id
    assert accepted(sandbox) == 1


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (504, anthropic.InternalServerError),
    ],
)
def test_polls_fail_and_the_batch_runs_on(sandbox, client, plan, status, error_class):
    batch = client.messages.batches.create(requests=REQUESTS)
    plan(poll=[{"fault": status, "times": 2}])
    with pytest.raises(error_class):
        client.messages.batches.retrieve(batch.id)
    with pytest.raises(error_class):
        client.messages.batches.list()
    assert client.messages.batches.retrieve(batch.id).processing_status == "ended"
    assert sandbox.usage()["answers_billed"] == 11


def test_counts_may_be_one_too_many(sandbox, client, plan):
    plan(poll=[{"fault": "wrong_counts"}])
    batch = client.messages.batches.create(requests=REQUESTS)
    counts = [client.messages.batches.retrieve(batch.id), client.messages.batches.list().data[0]]
    assert [each.request_counts.succeeded for each in counts] == [12, 12]
    assert (len(lines_of(sandbox, batch)), sandbox.usage()["answers_billed"]) == (11, 11)


def test_counts_of_a_batch_that_has_not_ended_are_right():
    with Sandbox(batch_seconds=9, faults={"poll": [{"fault": "wrong_counts"}]}) as sandbox:
        batch = httpx2.post(f"{sandbox.url}{BATCHES}", json={"requests": REQUESTS}, headers=HEADERS).json()
        shown = httpx2.get(f"{sandbox.url}{BATCHES}/{batch['id']}", headers=HEADERS).json()
    assert shown == batch


def test_a_results_url_may_be_a_path(sandbox, client, plan):
    plan(poll=[{"fault": "relative_url"}])
    batch = client.messages.batches.create(requests=REQUESTS)
    assert client.messages.batches.retrieve(batch.id).results_url == RESULTS.format(batch.id)
    assert client.messages.batches.list().data[0].results_url == RESULTS.format(batch.id)
    assert len([*client.messages.batches.results(batch.id)]) == 11
    assert sandbox.usage()["answers_billed"] == 11


def results_of(sandbox, client):
    batch = client.messages.batches.create(requests=REQUESTS)
    results = {line["custom_id"]: line["result"] for line in lines_of(sandbox, batch)}
    return [results[request["custom_id"]] for request in REQUESTS]


@pytest.mark.parametrize(
    "error_type", ["api_error", "overloaded_error", "rate_limit_error", "timeout_error", "invalid_request_error"]
)
def test_rows_fail_by_type_and_are_not_billed(sandbox, client, plan, error_type):
    plan(rows=[{"fault": error_type, "positions": [1, 11]}])
    results = results_of(sandbox, client)
    assert [number for number, result in enumerate(results, 1) if result["type"] == "errored"] == [1, 11]
    assert results[0]["error"]["error"] == {
        "type": error_type,
        "message": "The sandbox was asked to fail this request.",
    }
    assert sandbox.usage()["answers_billed"] == 9


@pytest.mark.parametrize("result_type", ["expired", "canceled"])
def test_rows_are_not_reached_and_not_billed(sandbox, client, plan, result_type):
    plan(rows=[{"fault": result_type, "from": 4}])
    assert [result["type"] for result in results_of(sandbox, client)] == ["succeeded"] * 3 + [result_type] * 8
    assert sandbox.usage()["answers_billed"] == 3


def test_credit_runs_out_from_a_row_on(sandbox, client, plan):
    plan(rows=[{"fault": "credit_too_low", "from": 7}])
    results = results_of(sandbox, client)
    assert [result["type"] for result in results] == ["succeeded"] * 6 + ["errored"] * 5
    assert "credit balance is too low" in results[-1]["error"]["error"]["message"]
    assert sandbox.usage()["answers_billed"] == 6


@pytest.mark.parametrize(("fault", "stop_reason"), [("refusal", "refusal"), ("truncated", "max_tokens")])
def test_rows_that_are_refused_or_truncated_succeed_and_are_billed(sandbox, client, plan, fault, stop_reason):
    plan(rows=[{"fault": fault, "positions": [2]}])
    results = results_of(sandbox, client)
    assert {result["type"] for result in results} == {"succeeded"}
    reasons = [result["message"]["stop_reason"] for result in results]
    assert reasons == ["end_turn", stop_reason, *["end_turn"] * 9]
    assert sandbox.usage()["answers_billed"] == 11


def test_rows_that_were_canceled_meet_no_fault():
    with Sandbox(batch_seconds=9, faults={"rows": [{"fault": "api_error"}]}) as sandbox:
        batch = httpx2.post(f"{sandbox.url}{BATCHES}", json={"requests": REQUESTS}, headers=HEADERS).json()
        httpx2.post(f"{sandbox.url}{BATCHES}/{batch['id']}/cancel", headers=HEADERS).raise_for_status()
        counts = httpx2.get(f"{sandbox.url}{BATCHES}/{batch['id']}", headers=HEADERS).json()["request_counts"]
        assert httpx2.get(f"{sandbox.url}/_sandbox/faults").json()["rows"][0]["met"] == 0
    assert counts["canceled"] == 11


OPERATIONS = {
    "create": ("POST", BATCHES, {"requests": REQUESTS}),
    "poll": ("GET", BATCHES, None),
    "retrieve": ("GET", f"{BATCHES}/{{batch}}", None),
    "list": ("GET", BATCHES, None),
    "cancel": ("POST", f"{BATCHES}/{{batch}}/cancel", None),
    "delete": ("DELETE", f"{BATCHES}/{{batch}}", None),
    "results": ("GET", f"{BATCHES}/{{batch}}/results", None),
    "messages": ("POST", "/v1/messages", PARAMS),
    "streams": ("POST", "/v1/messages", {**PARAMS, "stream": True}),
    "count_tokens": ("POST", "/v1/messages/count_tokens", PARAMS),
    "models": ("GET", "/v1/models", None),
    "rows": ("GET", f"{BATCHES}/{{batch}}/results", None),
}


def patient(fault):
    keys = {"late": {"seconds": 0.01}, "accept_late": {"seconds": 0.01}, "slow": {"bytes_per_second": 100_000}}
    return {"fault": fault, **keys.get(fault, {})}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_fault_of_every_section_is_met_and_survived(sandbox, plan, caplog, section):
    method, path, body = OPERATIONS[section]
    with httpx2.Client(base_url=sandbox.url, headers=HEADERS, timeout=0.5) as client:
        for fault in NAMES[section]:
            plan()
            batch = client.post(BATCHES, json={"requests": REQUESTS}).raise_for_status().json()["id"]
            plan(**{section: [patient(fault)]})
            with contextlib.suppress(httpx2.TransportError):
                client.request(method, path.format(batch=batch), json=body)
            wait_until(lambda: client.get("/_sandbox/faults").json()[section][0]["met"])
        with contextlib.suppress(httpx2.TransportError):
            client.head(path.format(batch=batch))
    assert [record for record in caplog.records if record.name in {"asyncio", "uvicorn.error"}] == []
