"""The sandbox as a server: what wild clients send, how it starts, and how it stops."""

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claude_pipeline.sandbox import ListenError, Sandbox, run_sandbox

HEADERS = {"authorization": "Bearer secret-key", "anthropic-version": "2026-10-21"}
BATCHES = "/v1/messages/batches"
PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}
BODY = {"requests": [{"custom_id": "a", "params": PARAMS}]}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workspace="wrkspc_test") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client(sandbox) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=sandbox.url, headers=HEADERS) as client:
        yield client


def assert_error(response, status, error_type):
    assert response.status_code == status
    assert response.json() == {
        "type": "error",
        "error": {"type": error_type, "message": response.json()["error"]["message"]},
        "request_id": response.headers["request-id"],
    }


def connect(sandbox):
    host, port = sandbox.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", BATCHES), ("GET", "/nowhere"), ("GET", "/_sandbox/usage"), ("GET", f"{BATCHES}/x")],
)
def test_every_response_says_whose_it_is(client, method, path):
    headers = client.request(method, path).headers
    assert headers["request-id"].startswith("req_")
    assert headers["anthropic-organization-id"] == "sandbox-organization"
    assert headers["anthropic-workspace-id"] == "wrkspc_test"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer"}, {"authorization": "Basic x"}, {"x-api-key": ""}])
def test_without_a_key_nobody_is_answered(sandbox, headers):
    response = httpx2.get(f"{sandbox.url}{BATCHES}", headers={"anthropic-version": "2026-10-21", **headers})
    assert_error(response, 401, "authentication_error")


@pytest.mark.parametrize("headers", [{}, {"anthropic-version": "1999-01-01"}])
def test_an_unknown_version_is_refused(sandbox, headers):
    response = httpx2.get(f"{sandbox.url}{BATCHES}", headers={"x-api-key": "any", **headers})
    assert_error(response, 400, "invalid_request_error")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/messages/", f"{BATCHES}/", f"{BATCHES}/a/b", "/v1/%00", "//v1/models"]
)
def test_an_unknown_path_is_not_found(client, path):
    assert_error(client.get(path), 404, "not_found_error")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", BATCHES, "GET, HEAD, POST"),
        ("POST", f"{BATCHES}/x", "DELETE, GET, HEAD"),
        ("GET", "/v1/messages", "POST"),
        ("POST", f"{BATCHES}/x/results", "GET, HEAD"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("PUT", "/_sandbox/faults", "DELETE, GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_is_refused_with_all_that_the_path_has(client, method, path, allowed):
    response = client.request(method, path)
    assert_error(response, 405, "invalid_request_error")
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/_sandbox/requests?batchid=x", "batchid: /_sandbox/requests takes batch_id in its query"),
        ("/_sandbox/log?batch_id=x", "batch_id: /_sandbox/log takes nothing in its query"),
    ],
)
def test_a_filter_that_the_sandbox_does_not_have_is_refused_by_name(client, path, message):
    response = client.get(path)
    assert_error(response, 400, "invalid_request_error")
    assert response.json()["error"]["message"] == message


@pytest.mark.parametrize("path", [f"{BATCHES}/x", f"{BATCHES}/x/results", f"{BATCHES}/é%2F"])
def test_an_unknown_batch_is_not_found(client, path):
    assert_error(client.get(path), 404, "not_found_error")


def request(custom_id="a", **extra):
    return {"custom_id": custom_id, "params": PARAMS, **extra}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"requests":[]}',
        b'{"requests":{}}',
        b'{"requests":[1]}',
        b'{"requests":[{"params":{}}]}',
        b'{"requests":[{"custom_id":"a"}]}',
        b'{"requests":[{"custom_id":1,"params":{}}]}',
        b'{"requests":[{"custom_id":"a","params":{"x":NaN}}]}',
        b'{"requests":[{"custom_id":"a","params":{"x":"\xff"}}]}',
        b'{"requests":[{"custom_id":"a","params":{"x":"\\ud800"}}]}',
        b'{"requests":[{"custom_id":"a","params":' + b"[" * 9999 + b"]" * 9999 + b"}]}",
        b'{"requests":[{"custom_id":"a","params":{}}]} trailing',
        *(json.dumps({"requests": [request(wrong)]}).encode() for wrong in ("", "a b", "é", "a\n", "x" * 65)),
        json.dumps({"requests": [request("a"), request("b"), request("a")]}).encode(),
        json.dumps({"requests": [request(extra=1)]}).encode(),
        json.dumps({"requests": [request()], "metadata": {}}).encode(),
    ],
)
def test_a_malformed_batch_is_an_invalid_request_and_creates_nothing(sandbox, client, body):
    before = sandbox.usage()["batches"]
    assert_error(client.post(BATCHES, content=body), 400, "invalid_request_error")
    assert sandbox.usage()["batches"] == before


@pytest.mark.parametrize("params", [None, 1, "x", [], {}, {"model": None}])
def test_params_that_are_no_message_are_accepted_and_fail_when_processed(client, params):
    batch = client.post(BATCHES, json={"requests": [{"custom_id": "a", "params": params}]}).json()
    result = client.get(f"{BATCHES}/{batch['id']}/results").json()["result"]
    assert (result["type"], result["error"]["error"]["type"]) == ("errored", "invalid_request_error")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "assistant", 1]), "content": JSON})
WILD_PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["claude-x", "", None]),
        "max_tokens": st.integers() | JSON,
        "messages": st.lists(MESSAGE, max_size=3) | JSON,
        "system": JSON,
        "tools": JSON,
        "stop_sequences": st.lists(st.text()) | JSON,
        "temperature": JSON,
        "stream": JSON,
    },
)
WILD_REQUESTS = st.lists(
    st.fixed_dictionaries({"custom_id": st.sampled_from("abc"), "params": WILD_PARAMS}), max_size=3
)
WILD_BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    WILD_REQUESTS.map(lambda requests: json.dumps({"requests": requests}).encode()),
)
WILDLY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@WILDLY
@given(body=WILD_BODIES)
def test_no_body_makes_create_fail_on_our_side(client, body):
    response = client.post(BATCHES, content=body)
    assert response.status_code in (200, 400)
    if response.status_code == 200:
        results = client.get(f"{BATCHES}/{response.json()['id']}/results")
        assert len(results.content.splitlines()) == response.json()["request_counts"]["processing"]


@WILDLY
@given(params=WILD_PARAMS)
def test_no_params_make_messages_fail_on_our_side(client, params):
    assert client.post("/v1/messages", content=json.dumps(params)).status_code in (200, 400, 404)
    assert client.post("/v1/messages/count_tokens", content=json.dumps(params)).status_code in (200, 400, 404)


@pytest.mark.parametrize(
    "body", [b"x", b"[]", b"{}", b'{"advance": null}', b'{"advance": 1e300}', b'{"advance": "nan"}']
)
def test_a_clock_is_not_stepped_by_nonsense(client, body):
    assert_error(client.post("/_sandbox/clock", content=body), 400, "invalid_request_error")


def test_a_gzip_body_is_read(client):
    headers = {"content-encoding": "gzip"}
    response = client.post(BATCHES, content=gzip.compress(json.dumps(BODY).encode()), headers=headers)
    assert response.json()["request_counts"]["processing"] == 1


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-3]),
        ("gzip", b""),
        ("br", b"{}"),
        ("deflate, gzip", b"{}"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_an_invalid_request(client, encoding, body):
    response = client.post(BATCHES, content=body, headers={"content-encoding": encoding})
    assert_error(response, 400, "invalid_request_error")


def test_a_small_body_that_decodes_to_too_much_is_too_large(client):
    bomb = gzip.compress(b" " * 256_000_001, compresslevel=1)
    response = client.post(BATCHES, content=bomb, headers={"content-encoding": "gzip"}, timeout=60)
    assert_error(response, 413, "request_too_large")


def test_a_message_of_more_than_32_mb_is_too_large(client):
    assert_error(client.post("/v1/messages", content=b" " * 32_000_001, timeout=60), 413, "request_too_large")


def test_a_batch_of_more_than_100000_requests_is_too_large(client):
    requests = [{"custom_id": str(number), "params": 0} for number in range(100_001)]
    assert_error(client.post(BATCHES, json={"requests": requests}, timeout=60), 413, "request_too_large")


def test_a_body_cut_short_creates_nothing(sandbox, client):
    before = sandbox.usage()["batches"]
    head = f"POST {BATCHES} HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\nanthropic-version: 2026-10-21\r\n"
    body = json.dumps(BODY)
    with connect(sandbox) as connection:
        connection.sendall(f"{head}content-length: {len(body) + 1}\r\n\r\n{body}".encode())
    assert client.get(BATCHES).status_code == 200
    assert sandbox.usage()["batches"] == before


@pytest.mark.parametrize("nonsense", [b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02", b"GET /" + b"x" * 100_000])
def test_nonsense_on_the_socket_disturbs_nobody_else(sandbox, client, nonsense):
    with connect(sandbox) as connection:
        connection.sendall(nonsense)
    assert client.get(BATCHES).status_code == 200


def test_results_url_points_to_the_host_that_the_client_asked(client):
    batch = client.post(BATCHES, json=BODY).json()
    shown = client.get(f"{BATCHES}/{batch['id']}", headers={"host": "sandbox.test:1234"}).json()
    assert shown["results_url"] == f"http://sandbox.test:1234{BATCHES}/{batch['id']}/results"


def test_leaving_the_sandbox_frees_its_port_and_its_thread_at_once():
    threads = set(threading.enumerate())
    with Sandbox() as sandbox:
        idle = connect(sandbox)
        halfway = connect(sandbox)
        halfway.sendall(f"POST {BATCHES} HTTP/1.1\r\ncontent-length: 9\r\n".encode())
        url, port = sandbox.url, int(sandbox.url.rpartition(":")[2])
    assert set(threading.enumerate()) <= threads
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)
    with Sandbox(port=port) as again:
        assert again.url == url
    idle.close()
    halfway.close()


def test_leaving_the_sandbox_cuts_results_that_are_on_their_way():
    requests = [{"custom_id": str(number), "params": PARAMS} for number in range(20_000)]
    with Sandbox() as sandbox:
        batch = httpx2.post(f"{sandbox.url}{BATCHES}", json={"requests": requests}, headers=HEADERS).json()
        reader = connect(sandbox)
        head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        reader.sendall(f"GET {BATCHES}/{batch['id']}/results HTTP/1.1\r\n{head}\r\n".encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
    with reader:
        assert not reader.makefile("rb").read().endswith(b"0\r\n\r\n")


def test_what_was_received_stays_readable_after_the_sandbox_stopped():
    with Sandbox() as sandbox:
        httpx2.post(f"{sandbox.url}{BATCHES}", json=BODY, headers=HEADERS)
    assert sandbox.usage()["requests_accepted"] == 1
    assert [received.custom_id for received in sandbox.requests()] == ["a"]


def test_many_clients_at_once_lose_nothing():
    def submit(url, number):
        with httpx2.Client(base_url=url, headers=HEADERS) as client:
            for each in range(10):
                request = {"custom_id": f"{number}_{each}", "params": PARAMS}
                client.post(BATCHES, json={"requests": [request]}).raise_for_status()
                client.get(BATCHES).raise_for_status()

    with Sandbox() as sandbox, ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(submit, sandbox.url), range(8)))
        assert sandbox.usage()["distinct_requests"] == 80


def test_a_sandbox_listens_on_ipv6_too():
    with Sandbox(host="::1") as sandbox:
        assert httpx2.get(f"{sandbox.url}/_sandbox/usage").json()["batches"] == 0


def test_a_sandbox_that_does_not_run_has_no_url():
    with pytest.raises(RuntimeError, match="with Sandbox"):
        _ = Sandbox().url


def test_a_taken_port_is_named_with_a_way_out(sandbox):
    port = int(sandbox.url.rpartition(":")[2])
    with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port}.*--port 0"):
        run_sandbox(Sandbox(port=port), on_ready=print)


def test_an_address_of_another_machine_is_named():
    with pytest.raises(ListenError, match=r"192\.0\.2\.1:0: .*--host 127\.0\.0\.1"), Sandbox(host="192.0.2.1"):
        pass


@pytest.mark.parametrize("host", ["nonsense.invalid", "no:address", "two..dots", "é" * 80, "nul\0"])
def test_a_host_that_does_not_exist_is_named_with_a_way_out(host):
    with pytest.raises(ListenError) as refused, Sandbox(host=host, port=8080):
        pass
    way_out = "there is no such host. Choose an address of this machine, such as --host 127.0.0.1."
    assert str(refused.value) == f"The sandbox cannot listen on {host}:8080: {way_out}"


@pytest.mark.parametrize(
    "options",
    [
        {"expire_rate": 1.1},
        {"error_rates": {"api_error": -0.1}},
        {"error_rates": {"api_error": 0.6}, "expire_rate": 0.6},
    ],
)
def test_rates_that_are_no_shares_are_refused(options):
    with pytest.raises(ValueError, match="Rates are shares"):
        Sandbox(**options)


def test_a_negative_batch_time_is_refused():
    with pytest.raises(ValueError, match="batch_seconds=-1"):
        Sandbox(batch_seconds=-1)


def start_process(*arguments):
    command = [sys.executable, "-m", "claude_pipeline.sandbox", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_as_a_process_it_prints_its_url_serves_and_stops_cleanly_on_ctrl_c():
    with start_process("--batch-seconds", "0", "--error-rate", "api_error=1") as process:
        url = process.stdout.readline().strip()
        batch = httpx2.post(f"{url}{BATCHES}", json=BODY, headers=HEADERS).json()
        ended = httpx2.get(f"{url}{BATCHES}/{batch['id']}", headers=HEADERS).json()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert ended["request_counts"]["errored"] == 1
    assert (process.returncode, out, err) == (0, "", "")


def test_as_a_process_it_says_in_one_line_that_the_port_is_taken(sandbox):
    with start_process("--port", sandbox.url.rpartition(":")[2]) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, len(err.splitlines())) == (1, "", 1)
    assert "--port 0" in err


def test_an_answer_function_that_fails_is_an_api_error_in_the_usual_shape(caplog):
    with Sandbox(answer=lambda params: params["nothing"]) as sandbox:
        response = httpx2.post(f"{sandbox.url}/v1/messages", json=PARAMS, headers=HEADERS)
    assert_error(response, 500, "api_error")
    assert "KeyError: 'nothing'" in caplog.text


def test_importing_the_sandbox_loads_no_server_no_sdk_and_nothing_of_the_core():
    code = (
        "import sys, claude_pipeline; before = set(sys.modules); import claude_pipeline.sandbox;"
        "print([name for name in set(sys.modules) - before if name.split('.')[0] in"
        "('starlette', 'uvicorn', 'anyio', 'anthropic', 'pyarrow', 'pandas')"
        "or (name.startswith('claude_pipeline.') and not name.startswith('claude_pipeline.sandbox'))])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
