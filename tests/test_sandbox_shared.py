"""A sandbox that keeps what it knows, and the one process that everybody on a folder shares."""

import json
import signal
import subprocess
import sys
from urllib.request import urlopen

import psutil
import pytest
from anthropic import Anthropic, NotFoundError

import claude_pipeline as cp
from claude_pipeline.sandbox import shared_sandbox

REQUESTS = [
    {
        "custom_id": f"row-{i}",
        "params": {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": f"Hi {i}."}]},
    }
    for i in range(3)
]


def client_of(url):
    return Anthropic(base_url=url, api_key="any", max_retries=0)


def answers_of(client, batch_id):
    return sorted(line.to_json() for line in client.messages.batches.results(batch_id))


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "sandbox"
    for process in servers(tmp_path / "sandbox"):
        process.kill()
        process.wait()


def servers(folder):
    found = []
    for process in psutil.process_iter():
        try:
            if "claude_pipeline.sandbox" in process.cmdline() and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_batches_answers_and_usage_are_the_same_after_a_restart(tmp_path):
    with cp.Sandbox(data=tmp_path) as sandbox, client_of(sandbox.url) as client:
        kept, deleted = (client.messages.batches.create(requests=REQUESTS).id for _ in range(2))
        before = answers_of(client, kept)
        client.messages.batches.retrieve(deleted)
        client.messages.batches.delete(deleted)
        usage = sandbox.usage()
    with cp.Sandbox(data=tmp_path) as sandbox, client_of(sandbox.url) as client:
        assert answers_of(client, kept) == before
        assert [batch.id for batch in client.messages.batches.list()] == [kept]
        with pytest.raises(NotFoundError):
            client.messages.batches.retrieve(deleted)
        assert sandbox.usage() == usage
        assert [request.attempt for request in sandbox.requests(kept)] == [1, 1, 1]


def test_a_cancel_survives_a_restart(tmp_path):
    with cp.Sandbox(data=tmp_path, batch_seconds=60) as sandbox, client_of(sandbox.url) as client:
        batch = client.messages.batches.create(requests=REQUESTS)
        client.messages.batches.cancel(batch.id)
    with cp.Sandbox(data=tmp_path, batch_seconds=60) as sandbox, client_of(sandbox.url) as client:
        assert client.messages.batches.retrieve(batch.id).request_counts.canceled == 3


def test_a_half_written_batch_was_never_accepted(tmp_path):
    (tmp_path / "00000000.tmp").write_bytes(b'{"kind":"create","batch_id":"msgb')
    with cp.Sandbox(data=tmp_path) as sandbox:
        assert sandbox.usage()["batches"] == 0


def test_a_folder_has_one_server_that_goes_on_with_its_batches_after_a_kill(folder):
    url = shared_sandbox(folder, batch_seconds=0)
    assert shared_sandbox(folder) == url
    with client_of(url) as client:
        batch = client.messages.batches.create(requests=REQUESTS)
        before = answers_of(client, batch.id)
    (server,) = servers(folder)
    server.send_signal(signal.SIGKILL)
    psutil.wait_procs([server])
    again = shared_sandbox(folder, batch_seconds=0)
    with client_of(again) as client:
        assert answers_of(client, batch.id) == before
    assert len(servers(folder)) == 1


def test_processes_that_ask_at_once_get_the_same_server(folder):
    script = "import pathlib, sys, claude_pipeline.sandbox as s; print(s.shared_sandbox(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", script, str(folder)]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    urls = {process.communicate()[0] for process in asking}
    assert len(urls) == 1
    assert len(servers(folder)) == 1


def test_a_stranger_on_the_port_is_not_taken_for_the_folders_server(folder):
    with cp.Sandbox() as stranger:
        folder.mkdir()
        (folder / "server.json").write_text(json.dumps({"url": stranger.url, "identity": "ours"}))
        url = shared_sandbox(folder)
        assert url != stranger.url


def test_the_server_ends_when_nobody_has_called_for_long_enough(folder):
    url = shared_sandbox(folder, idle_seconds=0.5)
    (server,) = servers(folder)
    psutil.wait_procs([server], timeout=20)
    assert servers(folder) == []
    with pytest.raises(OSError, match="refused"):
        urlopen(url, timeout=5)


def test_the_server_listens_on_this_machine_only(folder):
    shared_sandbox(folder)
    (server,) = servers(folder)
    listening = [c.laddr.ip for c in server.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    assert folder.stat().st_mode & 0o077 == 0
