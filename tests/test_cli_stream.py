"""`claude-pipeline stream`, in a pipe and on a terminal."""

import json
import os
import pty
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from streams import asked_messages, echo

import claude_pipeline as cp
from claude_pipeline.cli import main

ASK = ["stream", "in.parquet", "--prompt-column", "text", "--model", "claude-haiku-4-5", "--max-tokens", "640"]


@pytest.fixture
def sandbox():
    with cp.Sandbox(answer=echo) as server:
        yield server


@pytest.fixture
def folder(sandbox, tmp_path, monkeypatch):
    """Work in a folder with a table, against the sandbox."""
    pq.write_table(pa.table({"text": ["one", None, "two"], "n": [1, 2, 3]}), tmp_path / "in.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    return tmp_path


@pytest.fixture
def shell(folder):
    assert folder.exists()
    return lambda *words: CliRunner().invoke(main, [*ASK, *words], catch_exceptions=False)


def test_in_a_pipe_each_row_is_a_line_of_json(shell):
    result = shell("--in-order")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["row"] for row in rows] == [1, 2, 3]
    assert [row["response"] for row in rows] == ["one", None, "two"]
    assert rows[2]["input"] == {"text": "two", "n": 3}
    assert rows[1]["error_type"] == "missing_prompt"
    assert "3 rows · 2 answered" in result.stderr
    assert "claude-pipeline write job_" in result.stderr


def test_the_table_is_written_where_it_is_wanted_and_typed_as_asked(shell, folder):
    result = shell("--schema", "label: good|bad", "--out", "out.parquet")
    assert result.exit_code == 0, result.stderr
    table = pq.read_table(folder / "out.parquet")
    assert table["n"].to_pylist() == [1, 2, 3]
    assert table["error_type"].to_pylist() == ["invalid_output", "missing_prompt", "invalid_output"]
    assert "Wrote 3 rows to out.parquet" in result.stderr


def test_events_are_lines_of_json_too(shell):
    lines = [json.loads(line) for line in shell("--events", "--limit", "1").stdout.splitlines()]
    assert {line["row"] for line in lines} == {1}
    assert [lines[0]["event"]["type"], lines[-1]["event"]["type"]] == ["message_start", "message_stop"]


def test_rows_without_an_answer_have_an_exit_code_of_their_own(shell, sandbox):
    sandbox.fail_next("messages", 400)
    result = shell("--concurrency", "1")
    assert result.exit_code == 3
    assert "1 row without an answer: the same command asks them again." in result.stderr
    assert shell("--concurrency", "1").exit_code == 0
    assert len(asked_messages(sandbox)) == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--concurrency", "0"], 2, "--concurrency"),
        (["--out", "out.txt"], 1, "out.txt"),
        (["--param", "stream=true"], 1, "params has 'stream'"),
        (["--template", "x"], 2, "exclude each other"),
    ],
)
def test_bad_usage_is_one_line_and_asks_nothing(shell, sandbox, words, code, message):
    result = shell(*words)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert asked_messages(sandbox) == []


@pytest.fixture
def terminal(folder):
    """Run the command on a terminal, and return what it shows there."""
    processes = []

    def start(*words):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", "from claude_pipeline.cli import main; main()", *ASK, *words]
        environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
        process = subprocess.Popen(command, cwd=folder, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        processes.append(process)
        return process, ours

    yield start
    for process in processes:
        process.kill()
        process.wait()


def read_all(descriptor):
    shown = b""
    while True:
        try:
            piece = os.read(descriptor, 4096)
        except OSError:
            return shown.decode()
        if not piece:
            return shown.decode()
        shown += piece


def test_on_a_terminal_there_is_a_line_a_row_and_the_figures(terminal):
    process, screen = terminal()
    shown = read_all(screen)
    assert process.wait() == 0
    assert "3 done · 0 under way" in shown
    assert "✓" in shown
    assert "missing_prompt" in shown
    assert "2 answered" in shown


def test_one_row_at_a_time_is_read_as_it_is_said(terminal):
    process, screen = terminal("--concurrency", "1")
    shown = read_all(screen)
    assert process.wait() == 0
    first, second = shown.index("── row 1"), shown.index("── row 3")
    assert "one" in shown[first:second]
    assert "two" in shown[second:]


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_one_row_at_a_time_has_colours_for_who_wants_them(terminal, monkeypatch, no_color, coloured):
    monkeypatch.setenv("NO_COLOR", no_color)
    _, screen = terminal("--concurrency", "1", "--limit", "1")
    shown = read_all(screen)
    assert "── row 1" in shown
    assert ("\x1b[36m" in shown) == coloured


def test_ctrl_c_says_that_nothing_is_lost(terminal, monkeypatch):
    with cp.Sandbox(answer=lambda _: "word " * 500, tokens_per_second=20) as slow:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        process, screen = terminal()
        shown = b""
        while b"2 under way" not in shown:
            shown += os.read(screen, 4096)
        process.send_signal(signal.SIGINT)
        assert "What is complete is kept in job_" in read_all(screen)
        assert process.wait() == 130
