"""What the library logs: events by name, with fields; nothing secret, no prompt, no answer, nothing rolled back."""

import json
import logging
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from anthropic import Anthropic
from conftest import submit_to

import claude_pipeline as cp
from claude_pipeline import logs
from claude_pipeline.store import Store

KEY = "sk-ant-api03-a-key-like-no-other"
PROMPT, ANSWER = "a prompt like no other", "an answer like no other"
COMMAND = [sys.executable, "-c", "from claude_pipeline.cli import main; main()"]
DOCS = Path(__file__).parent.parent / "docs" / "operations.md"


def events(caplog, *names):
    told = [vars(record) for record in caplog.records if record.name.startswith("claude_pipeline.")]
    return [record for record in told if not names or record["event"] in names]


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG, logger="claude_pipeline")
    return caplog


def test_a_night_reads_as_a_person_wants_it(logged, store):
    with cp.Sandbox(error_rates={"overloaded_error": 0.3}, seed=1) as sandbox:
        job = submit_to(sandbox, [f"{n}" for n in range(10)], store=store, name="nightly")
        job.wait(poll_interval=0.05)
    told = [record for record in events(logged) if record["levelno"] >= logging.INFO]
    wanted = ["job.submitted", "batch.planned", "job.planned", "batch.sent", "batch.ended", "batch.collected"]
    assert [record["event"] for record in told][:6] == wanted
    assert told[-1]["event"] == "job.ended"
    assert all(record["job_id"] == job.job_id for record in told)
    (first, *_) = events(logged, "batch.sent")
    assert first["requests"] == 10
    assert first["bytes"] > 1000
    (collected, *_), (retried, *_) = events(logged, "batch.collected"), events(logged, "batch.retried")
    assert collected["succeeded"] + retried["requests"] == 10
    assert collected["batch_id"] == first["batch_id"]
    (ended,) = events(logged, "job.ended")
    assert (ended["unanswered"], ended["job_name"]) == (job.status().unanswered, "nightly")
    assert ended["cost_usd"] == round(job.status().cost_usd, 6)


def test_calls_are_logged_for_who_debugs(logged, ask):
    ask(["one"])
    calls = events(logged, "api.called")
    assert {("POST", "/v1/messages/batches", 200)} <= {(c["method"], c["path"], c["status"]) for c in calls}
    assert all(call["request_id"].startswith("req_") and call["seconds"] > 0 for call in calls)


def test_what_is_off_is_a_warning(logged, store):
    faults = {"create": [{"fault": 429, "times": 1, "retry_after": 30}]}
    with cp.Sandbox(faults=faults) as sandbox:
        submit_to(sandbox, ["one"], store=store)
    (refused,) = events(logged, "batch.refused")
    assert (refused["levelno"], refused["status"], refused["then"]) == (logging.WARNING, 429, "later")


def test_a_lost_answer_is_doubtful_and_then_found(logged, store):
    with cp.Sandbox(faults={"create": [{"fault": "drop_after", "times": 1}]}) as sandbox:
        submit_to(sandbox, ["one"], store=store).wait(poll_interval=0.05)
    assert [r["event"] for r in events(logged, "batch.doubtful", "batch.found", "batch.sent")] == [
        "batch.doubtful",
        "batch.found",
    ]


def test_a_blocked_job_says_why(logged, store):
    with cp.Sandbox(rows=lambda *_: "credit_too_low") as sandbox:
        job = submit_to(sandbox, ["one"], store=store)
        job.advance()
    (blocked,) = events(logged, "job.blocked")
    assert blocked["reason"] == job.status().reason


def test_what_is_rolled_back_was_never_said(logged, store):
    ledger = Store(store).ledger
    with suppress(ZeroDivisionError), ledger.transaction():
        logs.tell("job.resumed", job_id="job_a")
        1 / 0  # noqa: B018
    with ledger.transaction():
        logs.tell("job.resumed", job_id="job_b")
        assert events(logged) == []
    assert [record["job_id"] for record in events(logged)] == ["job_b"]


def test_neither_the_key_nor_prompts_nor_answers_are_logged_at_any_level(logged, store):
    faults = {"create": [{"fault": 429, "times": 1, "retry_after": 0}], "poll": [{"fault": 503, "times": 1}]}
    with cp.Sandbox(faults=faults, answer=lambda *_: ANSWER) as sandbox:
        client = Anthropic(base_url=sandbox.url, api_key=KEY)
        with client:
            job = submit_to(sandbox, [PROMPT], store=store, client=client).wait(poll_interval=0.05)
            assert job.to_arrow()["response"].to_pylist() == [ANSWER]
            options = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9, "salt": "x"}
            source = job.to_arrow().select(["text"])
            assert [r.response for r in cp.stream(source, store=store, client=client, **options)] == [ANSWER]
    told = [json.dumps(record, default=str) for record in events(logged)]
    assert len(told) > 10
    for secret in (KEY, "uthorization", PROMPT, ANSWER):
        assert not [line for line in told if secret in line]


def test_a_library_that_nobody_listens_to_says_nothing(sandbox, tmp_path):
    code = "import claude_pipeline as cp, sys; cp.submit('in.csv', prompt_column='text', model='m', max_tokens=1)"
    (tmp_path / "in.csv").write_text("text\none\n")
    environment = os.environ | {"ANTHROPIC_BASE_URL": sandbox.url, "ANTHROPIC_API_KEY": "sandbox"}
    words = [sys.executable, "-c", code.replace("'m'", "'claude-haiku-4-5'")]
    ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""


# The shell


@pytest.fixture
def shell(sandbox, tmp_path):
    (tmp_path / "in.csv").write_text("text\none\n")
    environment = os.environ | {"ANTHROPIC_BASE_URL": sandbox.url, "ANTHROPIC_API_KEY": KEY}

    def run(*words, **variables):
        command = [*COMMAND, *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True, check=False
        )

    return run


ASK = ["--prompt-column", "text", "--model", "claude-haiku-4-5", "--max-tokens", "9", "--poll-interval", "0.1"]


def test_a_log_of_json_is_all_that_stderr_has(shell):
    ran = shell("--log", "json", "run", "in.csv", *ASK, "--out", "out.csv")
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert {"job.submitted", "batch.sent", "job.ended", "shell.said"} <= {line["event"] for line in lines}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in lines)
    assert {line["logger"] for line in lines} >= {"claude_pipeline.job", "claude_pipeline.batch"}
    assert ran.stdout.startswith("job_")


def test_an_error_is_an_event_of_a_log_of_json(shell):
    ran = shell("status", "job_x", CLAUDE_PIPELINE_LOG="json")
    assert ran.returncode == 1
    (line,) = map(json.loads, ran.stderr.splitlines())
    assert (line["event"], line["level"]) == ("shell.failed", "ERROR")
    assert "job_x" in line["message"]


def test_a_log_of_text_has_levels_and_no_prompt_or_key(shell):
    ran = shell("--log", "text", "--log-level", "debug", "run", "in.csv", *ASK, "--out", "out.csv")
    line = r"^20\S+ \S+ DEBUG   claude_pipeline\.api: POST /v1/messages/batches: 200"
    assert re.search(line, ran.stderr, re.MULTILINE)
    assert "INFO    claude_pipeline.job: job_" in ran.stderr
    assert KEY not in ran.stderr
    warned = shell("--log", "text", "--log-level", "warning", "list")
    assert warned.stderr == ""


# The contract


def test_no_field_has_a_name_that_logging_has_itself():
    taken = {*vars(logging.makeLogRecord({})), "message", "asctime"}
    fields = {name for _, message in logs.EVENTS.values() for name in re.findall(r"{(\w+)", message)}
    assert not fields & taken


def test_every_event_that_is_told_is_listed_and_every_one_listed_is_told():
    sources = "\n".join(p.read_text() for p in Path(cp.__file__).parent.rglob("*.py"))
    told = set(re.findall(r'tell\(\s*"([a-z_.]+)"', sources))
    assert told == set(logs.EVENTS)


def test_the_page_lists_the_events_with_level_and_message():
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\w+) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    listed = {name: (level, message.strip("`")) for name, level, message in rows}
    assert listed == {name: (logging.getLevelName(level), text) for name, (level, text) in logs.EVENTS.items()}


def test_an_exception_is_a_field():
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        error = sys.exc_info()
    record = logging.LogRecord("claude_pipeline.job", logging.ERROR, "", 1, "It broke\n%s.", ("off",), error)
    record.path = Path("x")
    told = json.loads(logs.JsonFormatter().format(record))
    assert told["message"] == "It broke\noff."
    assert told["path"] == "x"
    assert "ZeroDivisionError" in told["exception"]
