"""The sandbox with a folder: what it was told before it was killed, it knows when it runs again."""

import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from itertools import count
from math import inf
from pathlib import Path
from threading import Thread

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_pipeline.sandbox import DataError, ListenError, Sandbox

HEADERS = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
BATCHES = "/v1/messages/batches"
HOUR = 3600
DAY = 24 * HOUR


def params(text="One sentence. Another."):
    return {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": text}]}


def body(*custom_ids):
    return {"requests": [{"custom_id": each, "params": params(f"About {each}. More.")} for each in custom_ids]}


def connect(url):
    return httpx2.Client(base_url=url, headers=HEADERS, timeout=30)


@contextmanager
def opened(folder, **options):
    with Sandbox(data=folder, **options) as sandbox, connect(sandbox.url) as client:
        yield client


@contextmanager
def process(folder, *options):
    """Run a sandbox in a process of its own, and kill it."""
    command = [sys.executable, "-m", "claude_pipeline.sandbox", "--data", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            with connect(server.stdout.readline().strip()) as client:
                client.server = server
                yield client
        finally:
            server.kill()


def create(client, *custom_ids):
    return client.post(BATCHES, json=body(*custom_ids)).raise_for_status().json()["id"]


def listed(client):
    return client.get(BATCHES, params={"limit": 1000}).raise_for_status().json()["data"]


def everything(client):
    """Return all that a client can learn; addresses aside, as the port may be another one."""
    base = str(client.base_url).rstrip("/")
    batches = [{**batch, "results_url": bool(batch["results_url"])} for batch in listed(client)]
    results = [client.get(f"{BATCHES}/{batch['id']}/results") for batch in batches if batch["results_url"]]
    return {
        "batches": batches,
        "results": [result.content for result in results],
        "received": client.get("/_sandbox/requests").content,
        "usage": client.get("/_sandbox/usage").json(),
        "is_local": base.startswith("http://127.0.0.1:"),
    }


def test_batches_cancels_deletes_messages_and_the_clock_survive_a_kill(tmp_path):
    with process(tmp_path, "--batch-seconds", str(HOUR)) as client:
        kept, canceled, deleted = create(client, "a", "b"), create(client, "b", "c"), create(client, "a")
        client.post(f"{BATCHES}/{canceled}/cancel").raise_for_status()
        client.post("/_sandbox/clock", json={"advance": HOUR}).raise_for_status()
        client.get(f"{BATCHES}/{deleted}").raise_for_status()
        client.delete(f"{BATCHES}/{deleted}").raise_for_status()
        client.post("/v1/messages", json=params()).raise_for_status()
        running = create(client, "a")
        before = everything(client)
    with process(tmp_path, "--batch-seconds", str(HOUR)) as client:
        assert everything(client) == before
    assert [batch["id"] for batch in before["batches"]] == [running, canceled, kept]
    assert before["usage"]["messages"] == 1
    assert before["usage"]["answers_billed_twice"] == 1


def test_every_answered_create_is_there_after_a_kill_and_no_half_one(tmp_path):
    answered = []

    def create_until_killed(client):
        for number in count():
            try:
                answered.append(create(client, *(f"{number}_{row}" for row in range(200))))
            except httpx2.TransportError:
                return

    with process(tmp_path) as client:
        thread = Thread(target=create_until_killed, args=[client])
        thread.start()
        while len(answered) < 5:
            assert thread.is_alive()
        client.server.send_signal(signal.SIGKILL)
        thread.join()
    with process(tmp_path) as client:
        batches = listed(client)
    assert {batch["id"] for batch in batches} >= set(answered)
    assert len(batches) <= len(answered) + 1
    assert {batch["request_counts"]["succeeded"] for batch in batches} == {200}


def test_attempts_are_counted_on_after_a_restart_deleted_batches_too(tmp_path):
    with opened(tmp_path) as client:
        batch = create(client, "a", "b")
        client.get(f"{BATCHES}/{batch}").raise_for_status()
        client.delete(f"{BATCHES}/{batch}").raise_for_status()
    with Sandbox(data=tmp_path) as sandbox, connect(sandbox.url) as client:
        create(client, "a", "c")
        assert [(each.custom_id, each.attempt) for each in sandbox.requests()] == [("a", 2), ("c", 1)]


def test_rates_meet_the_same_requests_after_a_restart(tmp_path):
    rates = {"error_rates": {"api_error": 0.3}, "expire_rate": 0.3, "seed": 7}
    with opened(tmp_path, **rates) as client:
        create(client, *map(str, range(100)))
        create(client, *map(str, range(50)))
        before = everything(client)
    with opened(tmp_path, **rates) as client:
        assert everything(client) == before
    assert before["batches"][0]["request_counts"]["errored"] > 0


def test_what_has_ended_stays_ended_when_batches_take_longer_now(tmp_path):
    with opened(tmp_path) as client:
        create(client, "a")
        before = everything(client)
    with opened(tmp_path, batch_seconds=HOUR) as client:
        assert everything(client) == before
        create(client, "b")
        assert [batch["processing_status"] for batch in listed(client)] == ["in_progress", "ended"]


def test_a_cancel_nobody_has_looked_at_is_carried_on(tmp_path):
    with opened(tmp_path, batch_seconds=HOUR) as client:
        batch = create(client, "a")
        canceling = client.post(f"{BATCHES}/{batch}/cancel").json()
    with opened(tmp_path, batch_seconds=HOUR) as client:
        ended = client.get(f"{BATCHES}/{batch}").json()
    assert canceling["processing_status"] == "canceling"
    assert (ended["processing_status"], ended["request_counts"]["canceled"]) == ("ended", 1)
    assert ended["cancel_initiated_at"] == canceling["cancel_initiated_at"]


def test_a_batch_that_expired_stays_expired(tmp_path):
    with Sandbox(data=tmp_path, batch_seconds=inf) as sandbox, connect(sandbox.url) as client:
        create(client, "a")
        sandbox.advance_clock(DAY)
        before = everything(client)
    with opened(tmp_path) as client:
        assert everything(client) == before
    assert before["batches"][0]["request_counts"]["expired"] == 1


def test_a_batch_may_end_while_no_sandbox_runs(tmp_path):
    with opened(tmp_path, batch_seconds=HOUR) as client:
        batch = create(client, "a")
    with opened(tmp_path, batch_seconds=0) as client:
        assert client.get(f"{BATCHES}/{batch}").json()["processing_status"] == "ended"


def test_a_write_that_was_cut_short_is_as_if_it_never_began(tmp_path):
    with opened(tmp_path) as client:
        create(client, "a")
        before = everything(client)
    (file,) = (tmp_path / "events").glob("*0.event")
    (tmp_path / "events" / "00000099.tmp").write_bytes(file.read_bytes()[:-9])
    with opened(tmp_path) as client:
        assert everything(client) == before


def test_a_batch_as_deep_as_it_may_be_can_be_read_again_from_a_deep_stack(tmp_path):
    def restart(calls):
        if calls:
            return restart(calls - 1)
        with opened(tmp_path) as client:
            return len(listed(client))

    def is_accepted(depth):
        nested = b'{"requests":[{"custom_id":"a","params":' + b"[" * depth + b"]" * depth + b"}]}"
        return client.post(BATCHES, content=nested).status_code == 200

    with opened(tmp_path) as client:
        assert any(is_accepted(depth) for depth in range(1000, 0, -5))
    assert restart(100) == 1


def test_a_file_that_cannot_be_read_is_named_with_a_way_out(tmp_path):
    with opened(tmp_path) as client:
        create(client, "a")
    file = tmp_path / "events" / "00000000.event"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"{file}: .*Move it away"), opened(tmp_path):
        pass
    file.unlink()
    with opened(tmp_path) as client:
        assert listed(client) == []


@pytest.mark.parametrize("content", [b"", b"\n", b"null\n{}", b'{"event":"dreamed"}\n', b"\xff\xfe\n", b"no line end"])
def test_no_content_of_a_file_is_more_than_unreadable(tmp_path, content):
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "00000000.event").write_bytes(content)
    with pytest.raises(DataError, match="Move it away"), opened(tmp_path):
        pass


def test_two_sandboxes_never_write_into_one_folder(tmp_path):
    with opened(tmp_path) as client:
        with pytest.raises(DataError, match=rf"Another sandbox \(process \d+\).*{tmp_path}"), opened(tmp_path):
            pass
        create(client, "a")
    with opened(tmp_path) as client:
        assert len(listed(client)) == 1


def test_a_folder_is_free_again_when_the_port_was_taken(tmp_path):
    with Sandbox() as other:
        taken = Sandbox(data=tmp_path, port=int(other.url.rpartition(":")[2]))
        with pytest.raises(ListenError, match="--port 0"), taken:
            pass
    with opened(tmp_path) as client:
        assert listed(client) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "data"
    with pytest.raises(DataError, match=rf"{folder}.*choose another folder"), opened(folder):
        pass


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    message = f"in {tmp_path}/file: {tmp_path}/file is a file. Choose a folder."
    with pytest.raises(DataError, match=message), opened(tmp_path / "file"):
        pass


def test_the_command_says_in_one_line_that_its_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "claude_pipeline.sandbox", "--data", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_what_cannot_be_kept_is_not_accepted(tmp_path):
    with opened(tmp_path) as client:
        create(client, "a")
        shutil.move(tmp_path / "events", tmp_path / "elsewhere")
        refused = client.post(BATCHES, json=body("b"))
        shutil.move(tmp_path / "elsewhere", tmp_path / "events")
        assert (refused.status_code, refused.json()["error"]["type"]) == (500, "api_error")
        assert "choose another folder" in refused.json()["error"]["message"]
        create(client, "b")
        before = everything(client)
    with opened(tmp_path) as client:
        assert everything(client) == before
    assert before["usage"]["requests_accepted"] == 2


def test_a_sandbox_that_stopped_leaves_its_folder_alone(tmp_path):
    with Sandbox(data=tmp_path) as sandbox, connect(sandbox.url) as client:
        create(client, "a")
    files = sorted(tmp_path.rglob("*"))
    assert sandbox.usage()["answers_billed"] == 1
    sandbox.advance_clock(1)
    assert sorted(tmp_path.rglob("*")) == files


def test_one_sandbox_may_run_again(tmp_path):
    sandbox = Sandbox(data=tmp_path)
    for times in (1, 2):
        with sandbox, connect(sandbox.url) as client:
            create(client, "a")
            assert sandbox.usage()["requests_accepted"] == times


STEPS = st.sampled_from(["create", "cancel", "delete", "look", "message", "clock", "restart"])


def take(step, client, number):
    batches = listed(client) if step in ("cancel", "delete") else []
    match step:
        case "create":
            create(client, "a", f"row_{number}")
        case "cancel" if batches:
            client.post(f"{BATCHES}/{batches[-1]['id']}/cancel").raise_for_status()
        case "delete" if batches:
            client.delete(f"{BATCHES}/{batches[0]['id']}")
        case "message":
            client.post("/v1/messages", json=params()).raise_for_status()
        case "clock":
            client.post("/_sandbox/clock", json={"advance": HOUR / 2}).raise_for_status()
        case "look":
            listed(client)


@settings(max_examples=8)
@given(steps=st.lists(STEPS, min_size=2, max_size=6))
def test_whatever_happened_a_restart_changes_nothing(steps):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, step in enumerate(steps):
            with opened(folder, batch_seconds=HOUR) as client:
                take(step, client, number)
                before = everything(client)
        with opened(folder, batch_seconds=HOUR) as client:
            assert everything(client) == before
