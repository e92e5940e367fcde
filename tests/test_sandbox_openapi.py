"""The document that the sandbox serves, and the sandbox held to it by clients that nobody wrote."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from isolated import run_isolated

from claude_pipeline.sandbox import Sandbox

KEY = "authorization: Bearer any"
# Three are left out: what a schema allows may still be refused, every key opens the door, and `Allow` names
# the methods of one route.
CHECKS = ("positive_data_acceptance", "ignored_auth", "allow_header_conformance")
MESSAGES = ("/v1/messages", "/v1/messages/count_tokens")
FAULTS = "/_sandbox/faults"
PARTS = {
    "batches": [argument for path in (*MESSAGES, FAULTS) for argument in ("--exclude-path", path)],
    "messages": [argument for path in MESSAGES for argument in ("--include-path", path)],
    "faults": ["--include-path", FAULTS],
}
PHASES = {"batches": "coverage,fuzzing,stateful", "messages": "examples,fuzzing", "faults": "fuzzing"}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def document(sandbox):
    return httpx2.get(f"{sandbox.url}/_sandbox/openapi.json").json()


def test_the_document_is_valid_openapi(document, tmp_path):
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(document))
    ran = run_isolated("openapi-spec-validator", file, needs=["openapi-spec-validator==0.9.0"])
    assert (ran.returncode, ran.stdout) == (0, f"{file}: OK\n")


def test_the_document_names_every_route_and_no_other(document):
    routes = Sandbox()._app("any")._app.routes
    served = {(route.path, method.lower()) for route in routes for method in route.methods - {"HEAD"}}
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == served


@pytest.mark.parametrize("part", PARTS)
def test_generated_requests_meet_nothing_that_the_document_does_not_say(sandbox, part, tmp_path):
    command = ["st", "run", f"{sandbox.url}/_sandbox/openapi.json", "-H", KEY, "--no-color", "--phases", PHASES[part]]
    bounds = ["--max-examples", "5", "--seed", "1", "--generation-database", "none", "--request-timeout", "20"]
    checks = ["--checks", "all", "--exclude-checks", ",".join(CHECKS)]
    ran = run_isolated(*command, *bounds, *checks, *PARTS[part], needs=["schemathesis==4.32.5"], cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert "generated," in ran.stdout


VERSION = {"anthropic-version": "2026-10-21"}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"]
SEGMENTS = st.sampled_from(
    ["v1", "messages", "batches", "models", "_sandbox", "usage", "requests", "results", "cancel", ".."]
)
PATHS = st.lists(SEGMENTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=5)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.strip)
HEADERS = st.dictionaries(
    st.sampled_from(["authorization", "x-api-key", "anthropic-version", "anthropic-beta", "content-type", "accept"]),
    VALUES | st.sampled_from(["2026-10-21", "2023-06-01", "Bearer any", "application/json", "gzip"]),
)
BODIES = st.binary(max_size=60) | st.sampled_from(
    [b"{", b"[]", b"null", b'{"requests":[]}', b'{"requests":0}', b'"\xff"']
)


REQUESTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(METHODS),
        "url": PATHS.map(lambda segments: "/" + "/".join(quote(segment, safe="") for segment in segments)),
        "params": st.dictionaries(
            st.sampled_from(["limit", "after_id", "beta"]), st.text(st.characters(codec="utf-8"), max_size=5)
        ),
        "headers": HEADERS,
        "content": BODIES,
    }
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with Sandbox() as sandbox, httpx2.Client(base_url=sandbox.url) as client:
        yield client


@settings(max_examples=200)
@given(request=REQUESTS)
@example(request={"method": "GET", "url": "/v1/models?limit=" + "9" * 5_000, "headers": {"x-api-key": "a", **VERSION}})
@example(request={"method": "DELETE", "url": "/_sandbox/usage"})
def test_whatever_a_client_sends_is_answered_or_refused_in_the_shape_of_the_api(client, request):
    # A path may begin with two slashes, a relative URL may not.
    response = client.request(**{**request, "url": f"{str(client.base_url).rstrip('/')}{request['url']}"})
    assert response.status_code < 500
    assert response.headers["request-id"]
    if response.status_code >= 400 and request["method"] != "HEAD":
        refused = response.json()
        assert (refused["type"], refused["request_id"]) == ("error", response.headers["request-id"])
        assert refused["error"].keys() == {"type", "message"}
