"""The limits of an organization: calls and tokens a minute, requests in the queue, and the headers that tell."""

import json
from datetime import datetime

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.sandbox import Sandbox
from claude_pipeline.sandbox.limits import TIERS, Bucket

TURN = {"role": "user", "content": "Say it. " * 50}
PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 64, "messages": [TURN]}
HEADERS = {"authorization": "Bearer any", "anthropic-version": "2026-10-21"}
BATCHES = "/v1/messages/batches"
CALLS = TIERS["start"].batch_calls


def client_of(sandbox, **options):
    return anthropic.Anthropic(api_key="any", base_url=sandbox.url, max_retries=0, **options)


@given(waits=st.lists(st.floats(0, 90), max_size=60), limit=st.integers(1, 20))
def test_a_bucket_never_gives_more_than_it_holds_and_what_has_flowed_in(waits, limit):
    bucket, now, given_out = Bucket(limit), 0.0, 0
    for wait in waits:
        now += wait
        if bucket.left(now) < 1:
            now += bucket.seconds_to(1, now=now) + 1e-6
        assert bucket.left(now) >= 1
        bucket.spend(1, now=now)
        given_out += 1
    assert given_out <= limit + now * limit / 60 + 1e-3


def test_calls_of_the_batch_api_are_limited_a_minute_and_the_refusal_says_for_how_long():
    with Sandbox(tier="start", clock_speed=0) as sandbox, httpx2.Client(base_url=sandbox.url, headers=HEADERS) as http:
        assert {http.get(BATCHES).status_code for _ in range(CALLS)} == {200}
        refused = http.get(BATCHES)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        sandbox.advance_clock(float(refused.headers["retry-after"]))
        assert http.get(BATCHES).status_code == 200


def test_without_a_tier_nothing_is_refused():
    with Sandbox() as sandbox, httpx2.Client(base_url=sandbox.url, headers=HEADERS) as http:
        assert {http.get(BATCHES).status_code for _ in range(CALLS + 1)} == {200}


def test_the_tier_limits_the_queue():
    limit = TIERS["start"].queued_requests
    with Sandbox(tier="start", batch_seconds=60) as sandbox, client_of(sandbox) as client:
        body = {"requests": [{"custom_id": f"{row}", "params": {}} for row in range(limit // 2)]}
        for _ in range(2):
            client.post(BATCHES, content=json.dumps(body).encode(), cast_to=httpx2.Response)
        with pytest.raises(anthropic.RateLimitError, match=f"{limit} requests are processing"):
            client.messages.batches.create(requests=[{"custom_id": "a", "params": PARAMS}])


def test_messages_say_what_is_left_of_requests_and_tokens():
    tier = TIERS["build"]
    with Sandbox(tier="build", clock_speed=0) as sandbox, client_of(sandbox) as client:
        first = client.messages.with_raw_response.create(**PARAMS)
        headers, usage = first.headers, first.parse().usage
    left = {
        "requests": (tier.requests, 1),
        "input-tokens": (tier.input_tokens, usage.input_tokens),
        "output-tokens": (tier.output_tokens, usage.output_tokens),
    }
    for name, (limit, spent) in left.items():
        assert int(headers[f"anthropic-ratelimit-{name}-limit"]) == limit
        assert int(headers[f"anthropic-ratelimit-{name}-remaining"]) == limit - spent
        assert datetime.fromisoformat(headers[f"anthropic-ratelimit-{name}-reset"]).tzinfo


def test_requests_for_messages_are_limited_for_each_model_apart():
    with Sandbox(tier="start", clock_speed=0) as sandbox, httpx2.Client(base_url=sandbox.url, headers=HEADERS) as http:
        limit = TIERS["start"].requests
        short = {**PARAMS, "messages": [{"role": "user", "content": "Hi."}]}
        assert {http.post("/v1/messages", json=short).status_code for _ in range(limit)} == {200}
        refused = http.post("/v1/messages", json={**short, "stream": True})
        assert refused.status_code == 429
        assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert int(refused.headers["retry-after"]) >= 1
        assert http.post("/v1/messages", json={**short, "model": "claude-opus-5-5"}).status_code == 200


def test_an_answer_longer_than_the_tokens_left_is_given_and_the_next_one_waits():
    long = {**PARAMS, "messages": [{"role": "user", "content": "w" * 4 * TIERS["start"].input_tokens}]}
    with Sandbox(tier="start", clock_speed=0) as sandbox, client_of(sandbox) as client:
        client.messages.create(**long)
        with pytest.raises(anthropic.RateLimitError, match="input tokens"):
            client.messages.create(**PARAMS)
        sandbox.advance_clock(2)
        client.messages.create(**PARAMS)


def test_an_unknown_tier_is_refused_with_the_ones_there_are():
    with pytest.raises(ValueError, match=r"No tier 'large'.*start, build, scale"):
        Sandbox(tier="large")
