"""The edge to the API: who asks, what each answer to a create means, and that a key never leaves."""

import io
import json
import socket
import traceback

import anthropic
import pyarrow as pa
import pytest
from meddler import Answer, Meddler

import claude_pipeline as cp
from claude_pipeline.batches import CHUNK_BYTES, BatchesApi, body_chunks
from claude_pipeline.errors import ApiError, CredentialsError, InputError
from claude_pipeline.refusals import CreateRefusedError, is_passing
from claude_pipeline.transport import make_client

KEY = "sk-ant-api03-a-key-like-no-other"
BODY = b'{"requests":[]}'
BATCH = {
    "id": "msgbatch_1",
    "processing_status": "in_progress",
    "request_counts": {"processing": 1},
    "created_at": "2026-11-22T10:00:00.123456Z",
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def answering(status, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Meddler(meddle=lambda _seen, _true: Answer(status, content, headers))


def api_of(meddler):
    return BatchesApi(anthropic.Anthropic(api_key=KEY, base_url=meddler.url, max_retries=0))


def error(message="What the API says.", **more):
    return {"type": "error", "error": {"type": "some_error", "message": message, **more}}


def create(api, *, complete=True, body=(BODY,)):
    return api.create(body, size=len(BODY), betas=(), is_complete=lambda: complete)


# Clients


def test_without_credentials_the_error_says_where_they_come_from():
    with pytest.raises(CredentialsError, match="ANTHROPIC_API_KEY"):
        make_client(None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"])
def test_a_server_on_this_machine_needs_no_key(url):
    assert make_client(url).api_key == "sandbox"


@pytest.mark.parametrize("url", ["http://127.0.0.1.example.com", "http://10.0.0.1", "https://localhost.example.com"])
def test_a_server_elsewhere_does(url):
    with pytest.raises(CredentialsError):
        make_client(url)


def test_credentials_of_the_environment_are_used(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert make_client(None).api_key == KEY
    assert make_client("http://127.0.0.1:8080").api_key == KEY


def test_a_token_or_an_authorization_header_is_enough(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "Authorization: Bearer of my proxy")
    assert make_client("https://proxy.example.com").api_key is None
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "a token")
    assert make_client(None).auth_token == "a token"


def test_a_client_without_batches_is_refused():
    client = anthropic.AnthropicBedrock(aws_access_key="a", aws_secret_key="b", aws_region="us-east-1")
    with pytest.raises(InputError, match="AnthropicBedrock, and there are no Message Batches"):
        BatchesApi(client)


@pytest.mark.parametrize(
    ("headers", "account"),
    [
        ({"anthropic-workspace-id": "wrkspc_1", "anthropic-organization-id": "org_1"}, "wrkspc_1"),
        ({"anthropic-organization-id": "org_1"}, "org_1"),
    ],
)
def test_the_account_is_the_workspace_or_the_organization(headers, account):
    with answering(200, {"data": []}, **headers) as server:
        assert api_of(server).account() == account


def test_the_account_of_a_server_that_names_none_is_its_origin():
    with answering(200, {"data": []}) as server:
        assert api_of(server).account() == server.url


# What an answer to a create means


def test_a_create_that_was_accepted_is_a_batch():
    with answering(200, BATCH) as server:
        batch = create(api_of(server))
        assert (batch.id, batch.requests) == ("msgbatch_1", 1)
        assert [seen.headers["content-length"] for seen in server.seen] == [str(len(BODY))]


CLASSES = {
    "blocked": [400, 401, 402, 403, 404, 409, 422],
    "halve": [413],
    "later": [429],
    "doubtful": [408, 499, 500, 502, 503, 504, 529],
}


@pytest.mark.parametrize(("status", "then"), [(status, then) for then, some in CLASSES.items() for status in some])
def test_every_status_has_its_consequence_and_is_asked_for_once(status, then):
    headers = {"request-id": "req_7"}
    with answering(status, error(), **headers) as server, pytest.raises(CreateRefusedError) as refused:
        create(api_of(server))
    assert (refused.value.then, refused.value.status) == (then, status)
    way_out = ". Check the API key." if status == 401 else ""
    assert str(refused.value) == f"The API answered {status}: What the API says. (request req_7){way_out}"
    assert len(server.seen) == 1


def test_a_create_follows_no_redirect():
    with Meddler() as other, answering(307, b"", location=f"{other.url}/v1/messages/batches") as server:
        with pytest.raises(CreateRefusedError) as refused:
            create(api_of(server))
        assert (refused.value.then, other.seen) == ("blocked", [])


@pytest.mark.parametrize("status", [408, 500, 504])
def test_a_server_error_before_the_last_chunk_created_nothing(status):
    with answering(status, error()) as server, pytest.raises(CreateRefusedError) as refused:
        create(api_of(server), complete=False)
    assert refused.value.then == "later"


@pytest.mark.parametrize(("header", "seconds"), [("17", 17.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None)])
def test_retry_after_is_read_in_seconds(header, seconds):
    with answering(429, error(), **{"retry-after": header}) as server, pytest.raises(CreateRefusedError) as refused:
        create(api_of(server))
    assert refused.value.retry_after == seconds


def test_a_spend_cap_is_blocked():
    cap = error(details={"error_code": "enforced_spend_limit_reached"})
    with answering(429, cap) as server, pytest.raises(CreateRefusedError) as refused:
        create(api_of(server))
    assert refused.value.then == "blocked"


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"", b"{}", b'{"id": 7}', b"[]"])
def test_an_answer_that_is_no_batch_is_doubtful(body):
    with answering(200, body) as server, pytest.raises(CreateRefusedError) as refused:
        create(api_of(server))
    assert refused.value.then == "doubtful"


@pytest.mark.parametrize(("complete", "then"), [(True, "doubtful"), (False, "later")])
def test_a_server_that_is_not_there_is_doubtful_only_after_the_last_chunk(complete, then):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    api = BatchesApi(anthropic.Anthropic(api_key=KEY, base_url=f"http://127.0.0.1:{port}"))
    with pytest.raises(CreateRefusedError, match=r"127\.0\.0\.1 could not be reached") as refused:
        create(api, complete=complete)
    assert refused.value.then == then


def test_an_error_of_ours_in_the_body_comes_through_as_itself():
    def body():
        yield BODY[:3]
        raise InputError("Ours.")

    with answering(200, BATCH) as server, pytest.raises(InputError, match="Ours"):
        create(api_of(server), body=body(), complete=False)


@pytest.mark.parametrize(("status", "passing"), [(401, False), (404, False), (408, True), (429, True), (500, True)])
def test_an_error_passes_or_does_not(status, passing):
    with answering(status, error()) as server, pytest.raises(ApiError) as found:
        api_of(server).newest_batch_id()
    assert is_passing(found.value) is passing


def test_a_batch_that_the_api_does_not_know_is_none():
    with answering(404, error()) as server:
        assert api_of(server).retrieve("msgbatch_1") is None


@pytest.mark.parametrize("field", ["created_at", "ended_at", "archived_at"])
def test_a_time_without_a_zone_is_an_error_of_the_api(field):
    with answering(200, BATCH | {field: "2026-11-22T10:00:00"}) as server, pytest.raises(ApiError, match="timezone"):
        api_of(server).retrieve("msgbatch_1")


@pytest.mark.parametrize("body", [b'{"data":[{"id":"\xff"}]}', b"\xff"])
def test_bytes_that_are_no_text_are_an_error_of_the_api(body):
    with answering(200, body) as server, pytest.raises(ApiError, match="is not the API's"):
        api_of(server).newest_batch_id()


@pytest.mark.parametrize(
    "url", ["http://[bad", "http://127.0.0.1:port/", "\x00", "//127.0.0.1:1/x", "http://127.0.0.1:1/x"]
)
def test_a_results_url_that_is_none_or_leads_elsewhere_is_not_followed(url):
    with answering(200, b"") as server, api_of(server).results("msgbatch_1", url):
        assert [seen.path for seen in server.seen] == ["/v1/messages/batches/msgbatch_1/results"]


def test_a_batch_id_cannot_leave_its_path():
    with answering(200, BATCH) as server:
        api_of(server).retrieve("../../v1/models?x=")
        assert server.seen[0].path == "/v1/messages/batches/..%2F..%2Fv1%2Fmodels%3Fx%3D"


# Bodies


@pytest.mark.parametrize(
    "size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7]
)
def test_the_intent_comes_before_the_last_chunk_and_after_all_others(size):
    content = bytes(index % 251 for index in range(1009)) * (size // 1009 + 1)
    steps = []
    chunks = []
    chunks.extend(body_chunks(io.BytesIO(content[:size]), before_last=lambda: steps.append(len(chunks))))
    assert b"".join(chunks) == content[:size]
    assert steps == [len(chunks) - 1]


# The key


def calls(api):
    return [
        api.account,
        api.newest_batch_id,
        lambda: list(api.newest_first()),
        lambda: api.retrieve("msgbatch_1"),
        lambda: api.cancel("msgbatch_1"),
        lambda: create(api),
        lambda: api.results("msgbatch_1", None).__enter__(),
    ]


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_the_key_stands_in_no_error(status):
    with answering(status, error()) as server:
        for call in calls(api_of(server)):
            with pytest.raises(ApiError) as found:
                call()
            told = [str(found.value), repr(found.value), *traceback.format_exception(found.value)]
            assert KEY not in "".join(told)
        assert KEY in str(server.seen)


def test_the_key_stands_nowhere_in_a_store(monkeypatch, tmp_path):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with cp.Sandbox() as server:
        server.fail_next("create", 401)
        settings = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16, "base_url": server.url}
        job = cp.submit(pa.table({"text": ["a", "b"]}), store=tmp_path / "store", **settings)
        assert KEY not in f"{job!r} {job.status()}"
        job.resume()
        job.wait(poll_interval=0).write(tmp_path / "store" / "out.parquet")
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
