"""The one sandbox of a folder: started by whoever comes first, found by all others, and again after its end."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from claude_pipeline.sandbox import DataError, Sandbox, SharedSandboxError, shared_sandbox

HEADERS = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}
ASK = (
    "import sys; from pathlib import Path; from claude_pipeline.sandbox import shared_sandbox;"
    "print(shared_sandbox(Path(sys.argv[1])))"
)
PATIENCE = 60


@pytest.fixture
def folder(tmp_path):
    """Name a folder that does not exist yet, and stop whoever serves it at the end."""
    folder = tmp_path / "store" / "sandbox"
    yield folder
    for server in servers(folder):
        server.kill()
    wait_until(lambda: not servers(folder))


def servers(folder):
    """Return the processes that serve the folder, zombies too if they were its."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            command = process.cmdline()
            if "claude_pipeline.sandbox" in command and str(folder) in command:
                found.append(process)
    return found


def wait_until(is_true):
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill(folder):
    (server,) = servers(folder)
    server.kill()
    wait_until(lambda: not psutil.pid_exists(server.pid))


def create(url, custom_id="a"):
    requests = [{"custom_id": custom_id, "params": PARAMS}]
    return httpx2.post(f"{url}/v1/messages/batches", json={"requests": requests}, headers=HEADERS).json()["id"]


def known(url):
    return [batch["id"] for batch in httpx2.get(f"{url}/v1/messages/batches", headers=HEADERS).json()["data"]]


def ask_in_process(folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", ASK, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_it_is_started_once_and_found_again(folder):
    url = shared_sandbox(folder, batch_seconds=0)
    assert shared_sandbox(folder) == url
    assert len(servers(folder)) == 1
    assert url.startswith("http://127.0.0.1:")


def test_it_outlives_the_process_that_started_it_and_holds_none_of_its_pipes(folder):
    with ask_in_process(folder) as starter:
        url, err = starter.communicate(timeout=PATIENCE)
    (server,) = servers(folder)
    assert (starter.returncode, err) == (0, "")
    assert known(url.strip()) == []
    assert os.getsid(server.pid) == server.pid
    streams = [Path(f"/proc/{server.pid}/fd/{number}").readlink() for number in range(3)]
    assert streams == [Path("/dev/null"), folder / "log", folder / "log"]
    assert shared_sandbox(folder) == url.strip()


def test_a_starter_without_stdin_and_in_a_folder_that_is_gone_gets_one_too(folder, tmp_path):
    (tmp_path / "gone").mkdir()
    leave = "import os; os.close(0); os.rmdir(os.getcwd());"
    command = [sys.executable, "-P", "-c", leave + ASK, str(folder)]
    url = subprocess.check_output(command, cwd=tmp_path / "gone", text=True).strip()
    assert known(url) == []


def test_a_relative_folder_is_the_same_folder(folder, monkeypatch):
    folder.mkdir(parents=True)
    url = shared_sandbox(folder)
    monkeypatch.chdir(folder.parent)
    assert shared_sandbox(folder.relative_to(folder.parent)) == url


def test_processes_and_threads_that_ask_at_once_get_the_same_one(folder):
    processes = [ask_in_process(folder) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(shared_sandbox, [folder] * 4))
    for process in processes:
        with process:
            urls.add(process.communicate(timeout=PATIENCE)[0].strip())
    assert len(urls) == 1
    assert len(servers(folder)) == 1
    assert (folder / "log").read_text().split() == [*urls]


def test_after_a_kill_it_goes_on_with_the_same_batches_on_the_same_port(folder):
    url = shared_sandbox(folder)
    batches = [create(url, "a"), create(url, "b")]
    kill(folder)
    assert shared_sandbox(folder) == url
    assert known(url) == batches[::-1]


def test_a_stranger_on_its_port_is_not_taken_for_it(folder):
    url = shared_sandbox(folder)
    batch = create(url)
    kill(folder)
    with Sandbox(port=int(url.rpartition(":")[2])) as stranger:
        assert stranger.url == url
        again = shared_sandbox(folder)
        assert again != url
        assert shared_sandbox(folder) == again
    assert known(again) == [batch]


@pytest.mark.parametrize("content", ["{", '{"port": -1, "pid": 1, "identity": "x"}'])
def test_nonsense_about_the_server_is_as_good_as_nothing(folder, content):
    folder.mkdir(parents=True)
    (folder / "server.json").write_text(content)
    assert known(shared_sandbox(folder)) == []


def test_one_that_is_too_busy_to_answer_is_waited_for_and_never_doubled(folder):
    url = shared_sandbox(folder)
    (server,) = servers(folder)
    server.suspend()
    with ThreadPoolExecutor(1) as pool, ask_in_process(folder) as process:
        busy = pool.submit(shared_sandbox, folder)
        time.sleep(2.5)
        assert servers(folder) == [server]
        server.resume()
        assert busy.result() == process.communicate(timeout=PATIENCE)[0].strip() == url
    assert servers(folder) == [server]


def test_it_ends_by_itself_when_nobody_asks_and_leaves_no_zombie(folder):
    url = shared_sandbox(folder, idle_seconds=2)
    batch = create(url)
    (server,) = servers(folder)
    wait_until(lambda: not psutil.pid_exists(server.pid))
    assert (folder / "log").read_text().split() == [url]
    assert known(shared_sandbox(folder)) == [batch]


def test_it_does_not_end_while_it_is_asked(folder):
    with Sandbox(data=folder) as sandbox:
        assert 0 <= sandbox.idle_seconds() < PATIENCE
    url = shared_sandbox(folder, idle_seconds=2)
    for _ in range(12):
        time.sleep(0.2)
        assert known(url) == []


def test_a_sandbox_that_someone_started_on_the_folder_is_found(folder):
    with Sandbox(data=folder) as sandbox:
        assert shared_sandbox(folder) == sandbox.url
    assert servers(folder) == []


def test_what_it_announces_is_the_port_and_the_process(folder):
    url = shared_sandbox(folder)
    said = json.loads((folder / "server.json").read_text())
    (server,) = servers(folder)
    assert (said["port"], said["pid"]) == (int(url.rpartition(":")[2]), server.pid)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=rf"{tmp_path}/file is a file\. Choose a folder"):
        shared_sandbox(tmp_path / "file")


def test_why_it_does_not_start_is_said_at_once_with_its_log(folder):
    (folder / "events").mkdir(parents=True)
    (folder / "events" / "00000000.event").write_text("nonsense")
    with pytest.raises(SharedSandboxError, match=r"00000000\.event.*Move it away.*Its log is .*/log"):
        shared_sandbox(folder)
    assert servers(folder) == []
