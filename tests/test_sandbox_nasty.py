"""Results and streams at their worst, as a client meets them, and what they cost all the same."""

import gzip
import json
import socket
from collections.abc import Iterator

import anthropic
import httpx2
import pytest

from claude_pipeline.sandbox import Sandbox
from claude_pipeline.sandbox.faults import Fault
from claude_pipeline.sandbox.faults.spoiling import spoil_events, spoil_results

TEXT = "Größe und Maß der Stärke: ein 😀 für alle."
PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 99, "messages": [{"role": "user", "content": TEXT}]}
REQUESTS = [{"custom_id": f"row_{i}", "params": PARAMS} for i in range(11)]
IDS = {request["custom_id"] for request in REQUESTS}
BATCHES = "/v1/messages/batches"
HEADERS = {"authorization": "Bearer any", "anthropic-version": "2026-10-21"}
HEAD = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
TOOL = {
    "name": "get_weather",
    "description": "Tell the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client(sandbox) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="any", base_url=sandbox.url, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def batch(client):
    batch = client.messages.batches.create(requests=REQUESTS)
    return client.messages.batches.retrieve(batch.id)


@pytest.fixture
def plan(sandbox):
    yield lambda **sections: httpx2.post(f"{sandbox.url}/_sandbox/faults", json=sections).raise_for_status()
    httpx2.delete(f"{sandbox.url}/_sandbox/faults").raise_for_status()


@pytest.fixture
def spent(sandbox):
    """Tell what was billed since the test began."""
    before = sandbox.usage()
    return lambda key: sandbox.usage()[key] - before[key]


def results(batch):
    return httpx2.stream("GET", batch.results_url, headers=HEADERS)


def results_by_socket(sandbox, batch):
    """Read an answer as bytes, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2]))) as connection:
        connection.sendall(f"GET {BATCHES}/{batch.id}/results HTTP/1.1\r\nhost: x\r\n{HEAD}\r\n".encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    return head.decode().lower(), body


def ids_of(body):
    return [json.loads(line)["custom_id"] for line in body.splitlines()]


def test_results_cut_with_a_frame_raise_and_cost_nothing_more(plan, batch, spent):
    plan(results=[{"fault": "cut"}])
    received = []
    with pytest.raises(httpx2.RemoteProtocolError), results(batch) as response:
        received.extend(response.iter_bytes())
    assert 0 < b"".join(received).count(b"\n") < 11
    assert spent("answers_billed") == 0


def test_results_cut_without_a_frame_end_within_a_line_and_raise_nothing(sandbox, plan, batch, client):
    plan(results=[{"fault": "cut_unframed"}])
    head, body = results_by_socket(sandbox, batch)
    assert "connection: close" in head
    assert "content-length" not in head
    assert "transfer-encoding" not in head
    assert (len(body.splitlines()), body.endswith(b"\n")) == (6, False)
    with results(batch) as response:
        assert response.read() == body
    with pytest.raises(json.JSONDecodeError):
        list(client.messages.batches.results(batch.id))


def test_results_cut_at_a_line_end_are_silently_too_few(sandbox, plan, batch, client):
    plan(results=[{"fault": "cut_line"}])
    head, body = results_by_socket(sandbox, batch)
    assert "content-length" not in head
    assert "transfer-encoding" not in head
    assert body.endswith(b"\n")
    assert len([*client.messages.batches.results(batch.id)]) == len(ids_of(body)) == 5
    assert sandbox.usage()["answers_billed"] == batch.request_counts.succeeded == 11


def test_slow_results_come_in_small_pieces_and_whole(plan, batch):
    plan(results=[{"fault": "slow", "bytes_per_second": 20_000}])
    with results(batch) as response:
        pieces = [*response.iter_raw()]
    assert max(map(len, pieces)) <= 2_000
    assert {*ids_of(b"".join(pieces))} == IDS


def test_stalled_results_come_to_half_and_no_further(plan, batch, client):
    plan(results=[{"fault": "stall", "times": 1}])
    received = []
    stalled = httpx2.stream("GET", batch.results_url, headers=HEADERS, timeout=0.5)
    with pytest.raises(httpx2.ReadTimeout), stalled as response:
        received.extend(response.iter_bytes())
    assert 0 < b"".join(received).count(b"\n") < 11
    assert len([*client.messages.batches.results(batch.id)]) == 11


@pytest.mark.parametrize(("fault", "lines"), [("duplicate_line", 12), ("missing_line", 10), ("unknown_line", 12)])
def test_results_have_a_line_too_many_or_too_few(plan, batch, client, fault, lines):
    plan(results=[{"fault": fault}])
    ids = [line.custom_id for line in client.messages.batches.results(batch.id)]
    assert (len(ids), len(IDS & {*ids})) == (lines, min(lines, 11))
    assert {*ids} - IDS == ({"nobody_sent_this"} if fault == "unknown_line" else set())


def test_a_garbage_line_is_no_json_and_the_others_are(plan, batch, client):
    plan(results=[{"fault": "garbage_line"}])
    with results(batch) as response:
        lines = response.read().splitlines()
    assert sum(line.startswith(b"{") for line in lines) == len(lines) - 1 == 10
    with pytest.raises(json.JSONDecodeError):
        list(client.messages.batches.results(batch.id))


def test_lines_may_end_as_on_windows(plan, batch, client):
    plan(results=[{"fault": "crlf"}])
    with results(batch) as response:
        body = response.read()
    assert body.count(b"\r\n") == body.count(b"\n") == 11
    assert len([*client.messages.batches.results(batch.id)]) == 11


def test_results_may_be_compressed(plan, batch, client):
    plan(results=[{"fault": "gzip"}])
    with results(batch) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert {*ids_of(gzip.decompress(raw))} == IDS
    assert {line.custom_id for line in client.messages.batches.results(batch.id)} == IDS


LINES = [b'{"custom_id":"%d","result":{"type":"expired"}}\n' % number for number in range(3)]
WHOLE = b"".join(LINES)
CHUNKS = [[WHOLE], LINES, [WHOLE[:-1], b"\n"], [WHOLE[:60], WHOLE[60:]], [WHOLE[:10], WHOLE[10:20], WHOLE[20:]]]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(
    ("fault", "more"),
    [("missing_line", -1), ("duplicate_line", 1), ("unknown_line", 1), ("garbage_line", 0), ("crlf", 0)],
)
def test_one_line_is_spoiled_wherever_chunks_end(chunks, fault, more):
    spoiled = b"".join(spoil_results(chunks, Fault(name=fault)))
    assert spoiled != WHOLE
    assert spoiled.count(b"\n") == 3 + more
    assert sum(line in spoiled for line in LINES) == {"crlf": 0, "missing_line": 2, "garbage_line": 2}.get(fault, 3)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("fault", ["cut", "cut_line", "stall"])
def test_results_end_early_wherever_chunks_end(chunks, fault):
    spoiled = b"".join(spoil_results(chunks, Fault(name=fault)))
    assert len(spoiled) < len(WHOLE)
    assert WHOLE.startswith(spoiled)
    assert (spoiled[-1:] in {b"", b"\n"}) == (fault == "cut_line")


@pytest.mark.parametrize("fault", ["missing_line", "unknown_line", "cut", "cut_line", "stall", "crlf"])
def test_where_there_are_no_lines_none_is_spoiled(fault):
    assert b"".join(spoil_results([], Fault(name=fault))) == b""


@pytest.mark.parametrize("fault", ["cut", "cut_unframed", "cut_line", "stall", "slow", "gzip", "late"])
def test_results_of_an_unknown_batch_are_not_found_whatever_the_fault(sandbox, plan, fault):
    plan(results=[{"fault": fault}])
    assert httpx2.get(f"{sandbox.url}{BATCHES}/nothing/results", headers=HEADERS).status_code == 404


def test_the_sandbox_stops_at_once_while_results_stall_or_crawl():
    faults = [{"fault": "stall", "positions": [1]}, {"fault": "slow", "bytes_per_second": 1}]
    with Sandbox(faults={"results": faults, "streams": [{"fault": "stall"}]}) as sandbox:
        url = f"{sandbox.url}{BATCHES}"
        batch = httpx2.post(url, json={"requests": REQUESTS}, headers=HEADERS).json()
        with httpx2.Client(headers=HEADERS) as client:
            reading = [
                client.send(client.build_request("GET", f"{url}/{batch['id']}/results"), stream=True) for _ in range(2)
            ]
            message = client.build_request("POST", f"{sandbox.url}/v1/messages", json={**PARAMS, "stream": True})
            reading.append(client.send(message, stream=True))
            sandbox.__exit__()
            for response in reading:
                with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
                    response.read()


def streamed(sandbox, *, timeout=20.0, **extra):
    params = {**PARAMS, "stream": True, **extra}
    return httpx2.stream("POST", f"{sandbox.url}/v1/messages", json=params, headers=HEADERS, timeout=timeout)


def types_of(body):
    lines = body.decode().splitlines()
    return [json.loads(line.removeprefix("data: "))["type"] for line in lines if line.startswith("data: ")]


@pytest.mark.parametrize(("fault", "error"), [("reset", httpx2.ReadError), ("stall", httpx2.ReadTimeout)])
def test_a_stream_breaks_and_is_billed_whole(sandbox, plan, spent, fault, error):
    plan(streams=[{"fault": fault, "events": 5}])
    received = []
    timeout = 0.5 if fault == "stall" else 20.0
    with streamed(sandbox, timeout=timeout) as response, pytest.raises(error):
        received.extend(response.iter_bytes())
    types = types_of(b"".join(received))
    assert (len(types), types[0], types[-1]) == (5, "message_start", "content_block_delta")
    assert spent("messages") == 1


@pytest.mark.parametrize("events", [0, 1, 4])
def test_a_stream_ends_before_its_last_event_and_is_billed_whole(sandbox, plan, spent, events):
    plan(streams=[{"fault": "eof", "events": events}])
    with streamed(sandbox) as response:
        assert len(types_of(response.read())) == events
    assert spent("messages") == 1


def test_a_client_notices_no_early_end_and_has_a_message_without_a_reason(plan, client, spent):
    plan(streams=[{"fault": "eof", "events": 5}])
    with client.messages.stream(**PARAMS) as stream:
        message = stream.get_final_message()
    assert (message.stop_reason, TEXT.startswith(message.content[0].text)) == (None, True)
    assert spent("messages") == 1


@pytest.mark.parametrize("error_type", ["overloaded_error", "api_error"])
def test_a_stream_says_that_it_fails(plan, client, spent, error_type):
    plan(streams=[{"fault": "error", "error_type": error_type, "message": "Too much."}])
    with pytest.raises(anthropic.APIStatusError) as failed, client.messages.stream(**PARAMS) as stream:
        stream.get_final_message()
    assert (failed.value.status_code, failed.value.type) == (200, error_type)
    assert failed.value.body["error"]["message"] == "Too much."
    assert spent("messages") == 1


def test_a_stream_has_events_and_deltas_that_nobody_knows(sandbox, plan, client):
    plan(streams=[{"fault": "unknown_event"}])
    with streamed(sandbox) as response:
        body = response.read()
    assert "novelty" in types_of(body)
    assert b'"novel_delta"' in body
    with client.messages.stream(**PARAMS) as stream:
        message = stream.get_final_message()
    assert (message.content[0].text, message.stop_reason) == (TEXT, "end_turn")


def test_a_stream_may_break_within_a_character(sandbox, plan, client):
    plan(streams=[{"fault": "split_utf8"}])
    with streamed(sandbox) as response:
        chunks = [*response.iter_raw()]
    broken = [chunk for chunk in chunks if not is_text(chunk)]
    assert len(broken) > 1
    assert types_of(b"".join(chunks))[-1] == "message_stop"
    with client.messages.stream(**PARAMS) as stream:
        assert stream.get_final_message().content[0].text == TEXT


def is_text(chunk):
    try:
        return bool(chunk.decode())
    except UnicodeDecodeError:
        return False


def test_the_input_of_a_tool_may_be_no_json(sandbox, plan, client, spent):
    plan(streams=[{"fault": "invalid_json", "times": 1}])
    with streamed(sandbox, tools=[TOOL], tool_choice={"type": "any"}) as response:
        body = response.read().decode()
    events = [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line.startswith("data: ")]
    parts = [event["delta"].get("partial_json", "") for event in events if event["type"] == "content_block_delta"]
    with pytest.raises(json.JSONDecodeError):
        json.loads("".join(parts))
    assert (events[-1]["type"], spent("messages")) == ("message_stop", 1)
    with client.messages.stream(**PARAMS, tools=[TOOL], tool_choice={"type": "any"}) as stream:
        assert isinstance(stream.get_final_message().content[-1].input, dict)


def test_text_that_looks_like_the_input_of_a_tool_is_left_alone():
    event = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":%s}\n\n'
    delta = b'{"type":"text_delta","text":"a \\"input_json_delta\\""}'
    ((spoiled),) = spoil_events([event % delta], Fault(name="invalid_json"))
    assert spoiled == event % delta


def test_a_message_that_is_not_streamed_meets_no_fault_of_streams(plan, client, sandbox):
    plan(streams=[{"fault": "eof"}])
    assert client.messages.create(**PARAMS).stop_reason == "end_turn"
    assert httpx2.get(f"{sandbox.url}/_sandbox/faults").json()["streams"][0]["met"] == 0


def test_a_status_meets_messages_streamed_or_not_and_nothing_is_billed(plan, client, spent):
    plan(messages=[{"fault": 529}])
    with pytest.raises(anthropic.OverloadedError):
        client.messages.create(**PARAMS)
    with pytest.raises(anthropic.OverloadedError), client.messages.stream(**PARAMS):
        pass
    assert spent("messages") == 0
