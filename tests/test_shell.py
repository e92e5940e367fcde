"""Manners of the shell: help that fits, lists with filters, watching, completion, and a page that tells all of it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from conftest import submit_to

import claude_pipeline as cp
from claude_pipeline.cli import main, shell

PAGE = (Path(__file__).parent.parent / "docs" / "shell.md").read_text()
SOURCES = "\n".join(path.read_text() for path in Path(cp.__file__).parent.rglob("*.py"))
BIN = Path(sys.executable).parent


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Make a store with a job that has ended, one that runs, and return it with their ids, the oldest first."""
    store = tmp_path_factory.mktemp("jobs") / "store"
    with cp.Sandbox() as sandbox:
        ended = submit_to(sandbox, ["one"], store=store, name="nightly-1").wait(poll_interval=0.05)
    with cp.Sandbox(batch_seconds=3600) as slow:
        running = submit_to(slow, ["two"], store=store, name="other")
    return store, [ended.job_id, running.job_id]


# Help


@pytest.mark.parametrize("command", list(main.commands))
def test_help_fits_a_screen_and_has_an_example(command):
    lines = run(command, "--help").stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("    ") and f"claude-pipeline {command}" in line for line in lines)


@pytest.mark.parametrize("command", ["run", "submit", "stream", "estimate"])
def test_all_options_are_shown_when_asked_for(command):
    shown = run(command, "--help-all").stdout
    names = [option for param in main.commands[command].params for option in param.opts if option.startswith("--")]
    assert len(names) > 25
    assert [name for name in names if name not in shown] == []
    assert "--salt" not in run(command, "--help").stdout


# list and status


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], [1, 0]),
        (["--state", "ended"], [0]),
        (["--state", "ended", "--state", "in_progress"], [1, 0]),
        (["--name", "nightly*"], [0]),
        (["--since", "5m"], [1, 0]),
        (["--since", "2099-01-01"], []),
        (["--user", "nobody-like-that"], []),
    ],
)
def test_a_list_is_filtered(jobs, filters, found):
    store, ids = jobs
    listed = json.loads(run("list", "--store", store, "--json", *filters).stdout)
    assert [status["job_id"] for status in listed] == [ids[number] for number in found]


def test_a_filter_that_finds_nothing_or_is_none_says_so(jobs):
    store, _ = jobs
    assert run("list", "--store", store, "--name", "x").stderr == "None of 2 jobs is such a one.\n"
    refused = run("list", "--store", store, "--since", "yesterday")
    assert refused.exit_code == 2
    assert "'yesterday' is no time. Give 30m, 12h, 7d or 2026-11-28." in " ".join(refused.stderr.split())


def test_watching_ends_with_the_job_and_says_what_changes_a_line_each(jobs, tmp_path):
    store, (ended, _) = jobs
    assert run("status", ended, "--watch", "--store", store).stdout == run("status", ended, "--store", store).stdout
    code = "import sys, claude_pipeline as cp; cp.open_job(sys.argv[1], store=sys.argv[2], base_url=sys.argv[3]).wait()"
    with cp.Sandbox(batch_seconds=1) as sandbox:
        job = submit_to(sandbox, ["one"], store=tmp_path / "watched")
        words = [sys.executable, "-c", code, job.job_id, str(tmp_path / "watched"), sandbox.url]
        with subprocess.Popen(words) as other:
            watched = run("status", "--watch", "--json", "--store", tmp_path / "watched")
            other.terminate()
    assert json.loads(watched.stdout)["state"] == "ended"
    first, *_, last = watched.stderr.splitlines()
    assert f"{job.job_id} in_progress" in first
    assert f"{job.job_id} ended" in last


def seen_on_a_terminal(*words, **environment):
    ours, theirs = pty.openpty()
    code = "from claude_pipeline.cli import main; main()"
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TERM": "xterm-256color", **environment}
    subprocess.run([sys.executable, "-c", code, *words], stdout=theirs, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:  # nobody has it open any more
        pass
    finally:
        os.close(ours)
    return said.decode()


def test_watching_on_a_terminal_draws_the_batches_in_place_until_ctrl_c_leaves_with_its_code(jobs):
    store, (_, running) = jobs
    ours, theirs = pty.openpty()
    # A shell starts its background jobs deaf to Ctrl-C; this test may be one of them.
    code = "import signal; signal.signal(2, signal.default_int_handler); from claude_pipeline.cli import main; main()"
    words = [sys.executable, "-c", code, "status", running, "--watch", "--store", str(store)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as watching:
        os.close(theirs)
        seen = b""
        while seen.count(b"msgbatch_") < 2:  # drawn, and drawn anew
            seen += os.read(ours, 65536)
        watching.send_signal(signal.SIGINT)
        with suppress(OSError):  # nobody has it open any more
            while piece := os.read(ours, 65536):
                seen += piece
        os.close(ours)
    screen = seen.decode()
    assert watching.returncode == shell.INTERRUPTED
    assert [word for word in ("BATCH", "AGE", "TOOK", "1 processing") if word not in screen] == []
    assert "\x1b[1A" in screen


def test_colours_are_for_terminals_that_want_them(jobs):
    store, _ = jobs
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]")
    assert colour.search(seen_on_a_terminal("list", "--store", str(store)))
    assert not colour.search(seen_on_a_terminal("list", "--store", str(store), NO_COLOR="1"))
    assert "\x1b" not in run("list", "--store", store).stdout


def test_on_a_narrow_terminal_a_list_wraps_and_cuts_nothing(jobs):
    store, ids = jobs
    shown = seen_on_a_terminal("list", "--store", str(store), COLUMNS="80")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    assert {*ids, "nightly-1", "in_progress"} <= {word for line in lines for word in line.split()}


def test_a_stream_prints_json_when_asked_for(sandbox, tmp_path):
    pa.parquet.write_table(pa.table({"text": ["one"]}), tmp_path / "in.parquet")
    options = ["--prompt-column", "text", "--model", "claude-haiku-4-5", "--max-tokens", "9", "--json"]
    place = ["--store", tmp_path / "store", "--base-url", sandbox.url]
    streamed = run("stream", tmp_path / "in.parquet", *options, *place)
    assert json.loads(streamed.stdout)["result_type"] == "succeeded"


# Completion


def completed(*words, incomplete):
    complete = ShellComplete(main, {}, "claude-pipeline", "_CLAUDE_PIPELINE_COMPLETE")
    return [item.value for item in complete.get_completions([str(word) for word in words], incomplete)]


def test_job_ids_complete_from_the_store_the_newest_first(jobs, tmp_path):
    store, ids = jobs
    assert completed("wait", "--store", store, incomplete="job_") == ids[::-1]
    assert completed("status", "--store", store, incomplete=ids[0][:9]) == [ids[0]]
    assert completed("wait", "--store", tmp_path / "none", incomplete="") == []
    assert completed(incomplete="ask") == ["ask-again"]


def test_the_lines_of_the_page_complete_in_a_shell():
    lines = dict(re.findall(r"^\| (bash|zsh|fish).*\| `(.*)` \|$", PAGE, re.MULTILINE))
    assert set(lines) == {"bash", "zsh", "fish"}
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": os.environ["HOME"]}
    script = f"{lines['bash']}\ncomplete -p claude-pipeline"
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert "-F _claude_pipeline_completion claude-pipeline" in ran.stdout, ran.stderr
    for name, word in (("zsh", "compdef"), ("fish", "complete ")):
        assert f"{name}_source claude-pipeline" in lines[name]
        told = environment | {"_CLAUDE_PIPELINE_COMPLETE": f"{name}_source"}
        ran = subprocess.run([BIN / "claude-pipeline"], env=told, capture_output=True, text=True, check=True)
        assert word in ran.stdout


# The page


def test_the_page_has_every_variable_that_is_read():
    read = set(re.findall(r"\b(?:CLAUDE_PIPELINE|ANTHROPIC)_[A-Z_]*[A-Z]\b", SOURCES))
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE))
    assert read - listed == set()
    assert listed - read <= {"NO_COLOR", "CLAUDE_PIPELINE_STATE"}


def test_the_page_has_every_exit_code():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert listed == {shell.OK, 1, 2, shell.UNANSWERED, shell.NOT_ENDED, shell.INTERRUPTED, shell.TERMINATED}
