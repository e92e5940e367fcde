"""What the sandbox tells of what it was asked, and who sees which batch."""

import json
from datetime import UTC, datetime, timedelta
from time import monotonic

import anthropic
import httpx2
import pytest

from claude_pipeline.sandbox import Sandbox

PARAMS = {
    "model": "claude-haiku-4-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Tell me a long story about the sea and the wind and the birds."}],
}
REQUESTS = [{"custom_id": "a", "params": PARAMS}]
SECRET = "sk-very-secret"


def client_of(sandbox, key=SECRET):
    return anthropic.Anthropic(api_key=key, base_url=sandbox.url, max_retries=0)


def test_every_request_is_logged_with_its_batch_and_what_was_answered():
    with Sandbox() as sandbox, client_of(sandbox) as client:
        batch = client.messages.batches.create(requests=REQUESTS)
        client.messages.batches.retrieve(batch.id)
        with pytest.raises(anthropic.NotFoundError):
            client.messages.batches.retrieve("msgbatch_nobody")
        created, looked, failed = sandbox.log()
    assert (created.method, created.path, created.status) == ("POST", "/v1/messages/batches", 200)
    assert created.batch_id == looked.batch_id == batch.id
    assert created.received_bytes > len(PARAMS["messages"][0]["content"])
    assert (failed.status, failed.batch_id) == (404, "msgbatch_nobody")


def test_a_create_whose_answer_was_lost_is_in_the_log_with_the_batch_that_it_made():
    with Sandbox(faults={"create": [{"fault": "drop_after"}]}) as sandbox, client_of(sandbox) as client:
        with pytest.raises(anthropic.APIConnectionError):
            client.messages.batches.create(requests=REQUESTS)
        (batch,) = client.messages.batches.list().data
        (lost,) = (entry for entry in sandbox.log() if entry.method == "POST")
    assert (lost.status, lost.fault, lost.batch_id) == (None, "drop_after", batch.id)


def test_the_log_is_the_same_over_http_and_holds_no_key():
    with Sandbox() as sandbox, client_of(sandbox) as client:
        client.messages.create(**PARAMS)
        lines = httpx2.get(f"{sandbox.url}/_sandbox/log").text.splitlines()
        (entry,) = sandbox.log()
    assert [json.loads(line) for line in lines] == [{key: getattr(entry, key) for key in entry.__struct_fields__}]
    assert SECRET not in lines[0]


def test_a_listener_hears_of_each_request():
    heard = []
    with Sandbox(on_request=heard.append) as sandbox, client_of(sandbox) as client:
        client.models.list()
        assert [entry.path for entry in heard] == ["/v1/models"]
    assert heard[0].line().split()[1:4] == ["GET", "/v1/models", "200"]


def test_a_key_sees_the_batches_of_its_own_workspace_only():
    with Sandbox(workspace=None) as sandbox, client_of(sandbox) as mine, client_of(sandbox, "another") as other:
        batch = mine.messages.batches.create(requests=REQUESTS)
        assert [found.id for found in mine.messages.batches.list()] == [batch.id]
        assert list(other.messages.batches.list()) == []
        for operation in ("retrieve", "cancel", "results", "delete"):
            with pytest.raises(anthropic.NotFoundError, match=batch.id):
                getattr(other.messages.batches, operation)(batch.id)
        accounts = {
            client.messages.batches.with_raw_response.list().headers["anthropic-workspace-id"]
            for client in (mine, mine, other)
        }
    assert len(accounts) == 2
    assert not any(SECRET in account for account in accounts)


def test_workspaces_survive_a_restart(tmp_path):
    options = {"workspace": None, "data": tmp_path}
    with Sandbox(**options) as sandbox, client_of(sandbox) as client:
        batch = client.messages.batches.create(requests=REQUESTS)
    with Sandbox(**options) as sandbox, client_of(sandbox) as mine, client_of(sandbox, "another") as other:
        assert [found.id for found in mine.messages.batches.list()] == [batch.id]
        assert list(other.messages.batches.list()) == []


def test_the_clock_is_set_over_http_and_stamps_what_comes():
    with Sandbox(clock_speed=0) as sandbox, client_of(sandbox) as client:
        httpx2.post(f"{sandbox.url}/_sandbox/clock", json={"set": "2030-05-06T07:08:09Z"}).raise_for_status()
        batch = client.messages.batches.create(requests=REQUESTS)
        sandbox.set_clock(batch.expires_at)
        shown = httpx2.get(f"{sandbox.url}/_sandbox/clock").json()["now"]
    assert batch.created_at == datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert datetime.fromisoformat(shown) == batch.created_at + timedelta(hours=24)


def test_hours_pass_in_moments_on_a_clock_sped_up():
    with Sandbox(batch_seconds=3600, clock_speed=0) as sandbox, client_of(sandbox) as client:
        batch = client.messages.batches.create(requests=REQUESTS)
        assert client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
        sandbox.speed_up_clock(10_000_000)
        assert client.messages.batches.retrieve(batch.id).processing_status == "ended"


def test_a_clock_sped_up_does_not_go_back_on_a_restart(tmp_path):
    options = {"batch_seconds": 3600, "data": tmp_path}
    with Sandbox(**options, clock_speed=10_000_000) as sandbox, client_of(sandbox) as client:
        batch = client.messages.batches.create(requests=REQUESTS)
        ended = client.messages.batches.retrieve(batch.id)
    with Sandbox(**options) as sandbox, client_of(sandbox) as client:
        assert client.messages.batches.create(requests=REQUESTS).created_at >= ended.ended_at
        assert client.messages.batches.retrieve(batch.id).ended_at == ended.ended_at


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_takes_at_least_the_time_that_its_pace_gives_it(streamed):
    with Sandbox(latency=0.2, tokens_per_second=40) as sandbox, client_of(sandbox) as client:
        begin = monotonic()
        if streamed:
            with client.messages.stream(**PARAMS) as stream:
                message = stream.get_final_message()
        else:
            message = client.messages.create(**PARAMS)
        assert monotonic() - begin >= 0.2 + message.usage.output_tokens / 40


@pytest.mark.parametrize("pace", [{"latency": -1}, {"tokens_per_second": 0}, {"latency": float("nan")}])
def test_a_pace_that_is_none_is_refused(pace):
    with pytest.raises(ValueError, match="no negative time"):
        Sandbox(**pace)
