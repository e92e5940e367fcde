"""`on_ended`: each ending is told once, by whoever comes first, and again when the telling did not go well."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import submit_to

import claude_pipeline as cp
from claude_pipeline.cli import main
from claude_pipeline.store import Store

APPEND = 'echo "$CLAUDE_PIPELINE_JOB_ID $CLAUDE_PIPELINE_STATE" >> told.txt'
ADVANCE = "import sys, claude_pipeline as cp; cp.advance(store='store', base_url=sys.argv[1], on_ended={})"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def advance(sandbox, store):
    Store(store)
    return lambda on_ended: cp.advance(store=store, base_url=sandbox.url, on_ended=on_ended)


def elsewhere(sandbox, on_ended):
    return subprocess.Popen([sys.executable, "-c", ADVANCE.format(on_ended), sandbox.url], stderr=subprocess.PIPE)


def test_a_job_that_ends_is_told_once_with_its_status(ask, advance):
    told = []
    advance(told.append)
    job = ask(["one"])
    advance(told.append)
    advance(told.append)
    assert [(status.job_id, status.state, status.unanswered) for status in told] == [(job.job_id, "ended", 0)]


def test_what_ended_before_anybody_asked_is_no_flood_but_who_waits_for_it_is_told(ask, advance):
    told = []
    jobs = [ask([text]).wait(poll_interval=0.05) for text in ("one", "two")]
    jobs[0].wait(on_ended=told.append)
    advance(told.append)
    assert [status.job_id for status in told] == [jobs[0].job_id]


def test_what_ended_in_a_process_that_tells_nobody_is_told_by_the_next_that_does(ask, advance):
    told = []
    advance(told.append)
    jobs = [ask([text]).wait(poll_interval=0.05) for text in ("one", "two")]
    advance(told.append)
    assert {status.job_id for status in told} == {job.job_id for job in jobs}


def test_a_blocked_job_is_told_and_told_again_when_it_has_ended(store):
    told, has_credit = [], []
    with cp.Sandbox(rows=lambda *_: None if has_credit else "credit_too_low") as sandbox:
        job = submit_to(sandbox, ["one"], store=store)
        with pytest.raises(cp.JobBlockedError):
            job.wait(poll_interval=0.05, on_ended=told.append)
        has_credit.append(True)
        job.resume()
        job.wait(poll_interval=0.05, on_ended=told.append)
    assert [status.state for status in told] == ["blocked", "ended"]
    assert "credit" in told[0].reason


def test_a_function_that_fails_harms_nothing_and_is_called_again(ask, advance):
    told = []
    advance(told.append)
    job = ask(["one"])
    with pytest.warns(cp.PipelineWarning, match=f"on_ended failed for {job.job_id}, which is ended .ZeroDivisionError"):
        advance(lambda _: 1 / 0)
    assert job.status().state == "ended"
    advance(told.append)
    assert len(told) == 1


def test_a_command_has_the_status_on_stdin_and_the_job_in_its_environment(ask, advance, store):
    advance(APPEND)
    job = ask(["one"], name="nightly")
    advance(f"{APPEND}; cat > status.json; echo $CLAUDE_PIPELINE_STORE > store.txt")
    assert json.loads(Path("status.json").read_text()) == json.loads(json.dumps(job.status().to_dict()))
    assert Path("told.txt").read_text() == f"{job.job_id} ended\n"
    assert Path("store.txt").read_text().strip() == str(store)


def test_a_command_finds_the_job_wherever_its_store_and_ledger_were_named(sandbox, store, postgres, monkeypatch):
    monkeypatch.setenv("CLAUDE_PIPELINE_LEDGER", "sqlite")
    job = submit_to(sandbox, ["one"], store=store, ledger=postgres.empty_database())
    command = f'{sys.executable} -m claude_pipeline write "$CLAUDE_PIPELINE_JOB_ID" --out answers.csv'
    job.wait(poll_interval=0.05, on_ended=command)
    assert Path("answers.csv").read_text().splitlines()[1].startswith('"one",')


def test_a_command_that_reads_nothing_or_fails_is_one_line(ask, advance):
    advance("true")
    ask(["one"])
    with pytest.warns(cp.PipelineWarning, match=r"\(exit code 3\)\. The next advance calls it again\.$"):
        advance("exit 3")
    with pytest.warns(cp.PipelineWarning, match="killed by signal 9"):
        advance("kill -9 $$")
    advance("true")
    advance("exit 3")


def test_several_at_once_tell_it_once(sandbox, ask, advance):
    advance("true")
    job = ask(["one"])
    at_once = [elsewhere(sandbox, repr(f"{APPEND}; sleep 2")) for _ in range(2)]
    assert [process.wait() for process in at_once] == [0, 0]
    for process in at_once:
        process.stderr.close()
    assert Path("told.txt").read_text() == f"{job.job_id} ended\n"


def test_who_was_killed_before_it_had_told_is_followed_by_the_next_one(sandbox, ask, advance):
    told = []
    advance(told.append)
    job = ask(["one"])
    with elsewhere(sandbox, "lambda status: __import__('os').kill(__import__('os').getpid(), 9)") as killed:
        assert killed.wait() == -signal.SIGKILL
    assert job.status().state == "ended"
    advance(told.append)
    assert [status.job_id for status in told] == [job.job_id]


def test_what_cannot_be_advanced_keeps_nobody_from_being_told(ask, sandbox, store):
    told = []
    Store(store)
    cp.advance(store=store, base_url=sandbox.url, on_ended=told.append)
    ask(["one"]).wait(poll_interval=0.05)
    with cp.Sandbox(batch_seconds=3600) as gone:
        other, url = submit_to(gone, ["two"], store=store), gone.url
    cp.advance(store=store, base_url=url, on_ended=told.append)
    assert [status.state for status in told] == ["ended"]
    assert other.status().state == "in_progress"


# The shell


def shell(sandbox, *words):
    environment = {"ANTHROPIC_BASE_URL": sandbox.url, "ANTHROPIC_API_KEY": "sandbox", "CLAUDE_PIPELINE_STORE": "store"}
    return CliRunner().invoke(main, [str(word) for word in words], env=environment, catch_exceptions=False)


def test_run_tells_when_the_answers_are_written(sandbox, tmp_path):
    (tmp_path / "in.csv").write_text("text\none\n")
    ask = ["--prompt-column", "text", "--model", "claude-haiku-4-5", "--max-tokens", "9", "--poll-interval", "0.1"]
    ran = shell(sandbox, "run", "in.csv", *ask, "--out", "out.csv", "--on-ended", "cp out.csv copy.csv; echo done")
    assert ran.exit_code == 0, ran.stderr
    assert (tmp_path / "copy.csv").read_text().startswith('"text","custom_id"')
    assert ran.stdout.split() == [ran.stdout.strip()]
    again = shell(sandbox, "wait", ran.stdout.strip(), "--on-ended", "touch again")
    assert again.exit_code == 0
    assert not (tmp_path / "again").exists()


def test_advance_says_in_a_line_that_the_command_failed(sandbox, tmp_path):
    shell(sandbox, "advance", "--on-ended", "true")
    job = submit_to(sandbox, ["one"], store=tmp_path / "store")
    ran = shell(sandbox, "advance", "--on-ended", "exit 7")
    assert ran.exit_code == 0
    assert ran.stderr == (
        f"Warning: on_ended failed for {job.job_id}, which is ended (exit code 7). The next advance calls it again.\n"
    )


# Who submitted


def test_who_submitted_and_where_stands_in_status_and_list(ask, monkeypatch, store):
    monkeypatch.setenv("LOGNAME", "ana")
    job = ask(["one"], name="nightly")
    host = os.uname().nodename
    assert (job.status().submitted_by, job.status().submitted_from) == ("ana", host)
    monkeypatch.setenv("LOGNAME", "ben")
    ask(["one"], name="nightly")
    assert job.status().submitted_by == "ben"
    listed = CliRunner().invoke(main, ["list", "--store", str(store)])
    assert f"ben@{host.partition('.')[0]}" in listed.stdout
    shown = CliRunner().invoke(main, ["status", "--store", str(store)])
    assert f"by ben@{host.partition('.')[0]}" in shown.stdout


def test_a_user_whom_the_system_does_not_know_is_a_number(ask, monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)  # as in a container with a user of its own
    assert ask(["one"]).status().submitted_by == f"uid {os.getuid()}"
