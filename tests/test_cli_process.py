"""The shell as a process of its own: streams, terminals, signals."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import claude_pipeline as cp
from claude_pipeline.cli import main

# A shell starts its background jobs deaf to Ctrl-C; these tests may be one of them.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from claude_pipeline.cli import main
main()
"""
COMMAND = [sys.executable, "-c", START]
RUN = ["run", "prompts.parquet", "--prompt-column", "prompt", "--model", "claude-haiku-4-5", "--max-tokens", "16"]
HELP = """
import sys
from claude_pipeline.cli import main
main(["run", "--help"], standalone_mode=False)
print(*sorted({"anthropic", "numpy", "pandas", "pyarrow", "starlette"} & set(sys.modules)), "loaded")
"""


@pytest.fixture
def start(tmp_path):
    """Start `run` on one prompt in a folder of its own, and end it with the test."""
    pq.write_table(pa.table({"prompt": ["One is odd."]}), tmp_path / "prompts.parquet")
    started = []

    def run(sandbox, *words, stderr=subprocess.PIPE):
        command = [*COMMAND, *RUN, "--out", "answers.parquet", "--base-url", sandbox.url, *words]
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("signal_sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_the_batch_running_and_the_same_command_picks_it_up(
    start, tmp_path, monkeypatch, signal_sent, code
):
    with cp.Sandbox(batch_seconds=3600) as sandbox:
        waiting = start(sandbox)
        assert "in_progress" in waiting.stderr.readline()
        waiting.send_signal(signal_sent)
        out, err = waiting.communicate()
        job_id = out.strip()
        assert waiting.returncode == code, err
        assert f"claude-pipeline wait {job_id}" in err
        assert f"claude-pipeline cancel {job_id}" in err
        sandbox.advance_clock(3600)
        monkeypatch.chdir(tmp_path)
        again = CliRunner().invoke(main, [*RUN, "--out", "answers.parquet", "--base-url", sandbox.url])
        assert (again.exit_code, again.stdout) == (0, out), again.stderr
        assert len(list(sandbox.requests())) == 1
    assert pq.read_table(tmp_path / "answers.parquet")["response"].to_pylist() == ["One is odd."]


def test_a_terminal_gets_the_live_board_and_stdout_still_the_id_alone(start):
    ours, theirs = pty.openpty()
    with cp.Sandbox(batch_seconds=1) as sandbox:
        process = start(sandbox, "--poll-interval", "0.2", stderr=theirs)
        os.close(theirs)
        screen = _read_all(ours)
        job_id = process.stdout.read().strip()
    assert process.wait() == 0
    assert job_id.startswith("job_")
    assert "\x1b[?25l" in screen
    assert f"{job_id}" in screen
    assert "1 processing" in screen
    assert "▒▒▒" in screen
    assert "Wrote 1 row to answers.parquet" in screen


def test_help_loads_neither_the_sdk_nor_a_table_library(tmp_path):
    shown = subprocess.run([sys.executable, "-c", HELP], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "loaded"


def test_the_sandbox_prints_the_line_to_paste_logs_each_request_and_stops_when_told(tmp_path):
    command = [*COMMAND, "sandbox", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        url = re.fullmatch(r"export ANTHROPIC_BASE_URL=(http://127\.0\.0\.1:\d+) ANTHROPIC_API_KEY=sandbox\n", line)[1]
        asked = 'import anthropic; print(anthropic.Anthropic().models.retrieve("claude-haiku-4-5").id)'
        pasted = f"{line.strip()}; {sys.executable} -c '{asked}'"
        assert subprocess.check_output(pasted, shell=True, text=True, cwd=tmp_path).strip() == "claude-haiku-4-5"
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate()
    assert (process.returncode, rest) == (0, "")
    assert re.search(r"^\d\d:\d\d:\d\d GET /v1/models/claude-haiku-4-5 200 \d+ ms$", said, re.MULTILINE)
    assert url not in said


def _read_all(descriptor: int) -> str:
    received = bytearray()
    while True:
        try:
            received += os.read(descriptor, 65_536)
        except OSError:  # Linux says so when the other side has closed
            os.close(descriptor)
            return received.decode()


@pytest.mark.parametrize(
    "command", [[str(Path(sys.executable).with_name("claude-pipeline"))], [sys.executable, "-m", "claude_pipeline"]]
)
def test_the_command_is_a_console_script_and_a_module(command):
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"claude-pipeline, version {cp.__version__}\n"
