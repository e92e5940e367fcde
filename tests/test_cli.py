"""The shell, in this process, against a real sandbox and a real store."""

import csv
import json
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import claude_pipeline as cp
from claude_pipeline.cli import main

COMMANDS = [
    "run",
    "submit",
    "stream",
    "estimate",
    "list",
    "status",
    "wait",
    "advance",
    "write",
    "report",
    "failed",
    "ask-again",
    "compare",
    "cancel",
    "resume",
    "costs",
    "budget",
    "doctor",
    "recover",
    "prune",
    "sandbox",
    "demo",
]
ASK = ["--prompt-column", "prompt", "--model", "claude-haiku-4-5", "--max-tokens", "16", "--poll-interval", "0.05"]
SEND = ASK[:-2]


def fate(_custom_id, params, _attempt):
    """Let a prompt choose what becomes of it."""
    text = json.dumps(params)
    return next((word for word in ("invalid_request_error", "credit_too_low") if word in text), None)


@pytest.fixture(scope="module")
def sandbox():
    with cp.Sandbox(batch_seconds=0.05, rows=fate) as server:
        yield server


@pytest.fixture(scope="module")
def slow_sandbox():
    with cp.Sandbox(batch_seconds=3600) as server:
        yield server


@pytest.fixture
def shell(sandbox, tmp_path, monkeypatch):
    """Run a command in a folder of its own, against the sandbox unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")

    def invoke(*words):
        return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)

    return invoke


@pytest.fixture
def prompts(tmp_path):
    """Write a table of prompts and return its path."""

    def write(*texts, name="prompts.parquet"):
        path = tmp_path / name
        pq.write_table(pa.table({"id": list(range(len(texts))), "prompt": list(texts)}), path)
        return path

    return write


def test_run_writes_every_row_with_its_answer_and_prints_the_job_id_alone(shell, prompts):
    source = prompts("One is odd. Two is not.", "Two is even.", "One is odd. Two is not.")
    result = shell("run", source, *ASK, "--out", "answers.parquet")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("job_")
    assert len(result.stdout.split()) == 1
    answers = pq.read_table("answers.parquet")
    assert answers["response"].to_pylist() == ["One is odd.", "Two is even.", "One is odd."]
    assert "Saved:" in result.stderr
    assert "\x1b" not in result.output


def test_run_writes_csv_by_suffix(shell, prompts):
    result = shell("run", prompts("One is odd."), *ASK, "--out", "answers.csv")
    assert result.exit_code == 0, result.stderr
    with Path("answers.csv").open(newline="") as file:
        assert [row["response"] for row in csv.DictReader(file)] == ["One is odd."]


def test_the_same_run_again_is_the_same_job_and_asks_nothing(shell, prompts):
    words = ["run", prompts("Asked once."), *ASK, "--out", "answers.parquet"]
    first = shell(*words)
    again = shell(*words)
    assert again.stdout == first.stdout
    assert "1 batch" in again.stderr


def test_several_files_are_one_table(shell, prompts):
    prompts("One.", name="a.parquet")
    prompts("Two.", name="b.parquet")
    result = shell("run", "a.parquet", "b.parquet", *ASK, "--out", "answers.parquet")
    assert pq.read_table("answers.parquet")["prompt"].to_pylist() == ["One.", "Two."], result.stderr


def test_limit_asks_only_the_first_rows(shell, prompts):
    shell("run", prompts("One.", "Two."), *ASK, "--limit", "1", "--out", "answers.parquet")
    assert pq.read_table("answers.parquet").num_rows == 1


def test_params_and_system_reach_the_request(shell, prompts):
    stop = ["--param", 'stop_sequences=["odd"]', "--system", "Be brief."]
    result = shell("run", prompts("One is odd."), *ASK, *stop, "--out", "answers.parquet")
    assert pq.read_table("answers.parquet")["stop_reason"].to_pylist() == ["stop_sequence"], result.stderr


def test_blank_prompts_are_skipped_reported_and_fine(shell, prompts):
    result = shell("run", prompts("One.", " ", None), *ASK, "--out", "answers.parquet")
    assert result.exit_code == 0
    assert "2 skipped (blank prompt)" in result.stderr


def test_rows_without_an_answer_are_written_and_told_by_exit_code_3(shell, prompts):
    result = shell("run", prompts("One.", "Say invalid_request_error."), *ASK, "--out", "answers.parquet")
    assert result.exit_code == 3
    assert "1 unanswered" in result.stderr
    assert pq.read_table("answers.parquet")["result_type"].to_pylist() == ["succeeded", "errored"]


@pytest.mark.parametrize("refused", [True, False])
def test_rows_that_were_not_sent_are_mended_and_only_the_others_asked_again(shell, tmp_path, refused):
    texts = ["Say invalid_request_error." if refused else "One.", None]
    pq.write_table(pa.table({"id": [7, 8], "text": texts}), tmp_path / "rows.parquet")
    words = ["--template", "{id}: {text}", *ASK[2:], "--id-column", "id", "--out", "answers.parquet"]
    result = shell("run", "rows.parquet", *words)
    assert result.exit_code == 3
    assert "Mend 1 row that could not be sent and submit the table again" in result.stderr
    assert (f"Ask 1 row again: claude-pipeline resume {result.stdout.strip()}" in result.stderr) == refused
    assert ("resume" in result.stderr) == refused
    said = shell("failed", result.stdout.strip()).stdout.splitlines()[-1]
    assert said.split(maxsplit=2)[:2] == ["2", "missing_field"]
    assert said.split(maxsplit=2)[2].startswith("(id 8): Column 'text' is null.")


def test_a_job_that_has_not_ended_in_time_is_exit_code_4_with_the_way_on(shell, prompts, slow_sandbox):
    place = ["--store", "elsewhere", "--base-url", slow_sandbox.url]
    result = shell("run", prompts("One."), *ASK, *place, "--timeout", "0", "--out", "answers.parquet")
    job_id = result.stdout.strip()
    assert result.exit_code == 4
    assert f"claude-pipeline wait {job_id} --store elsewhere" in result.stderr


def test_a_blocked_job_is_exit_code_4_with_the_reason_and_resume(shell, prompts):
    result = shell("run", prompts("Say credit_too_low."), *ASK, "--out", "answers.parquet")
    assert result.exit_code == 4
    assert "credit balance is too low" in result.stderr
    assert f"claude-pipeline resume {result.stdout.strip()}" in result.stderr


def test_submit_prints_the_id_that_wait_and_write_take(shell, prompts):
    submitted = shell("submit", prompts("One."), *SEND, "--name", "numbers")
    job_id = submitted.stdout.strip()
    assert submitted.stdout == f"{job_id}\n"
    waited = shell("wait", job_id, "--poll-interval", "0.05")
    assert (waited.exit_code, waited.stdout) == (0, ""), waited.stderr
    written = shell("write", job_id, "--out", "answers.parquet")
    assert (written.exit_code, written.stdout) == (0, "")
    assert pq.read_table("answers.parquet")["response"].to_pylist() == ["One."]


def test_write_before_the_end_has_every_row_and_is_exit_code_4(shell, prompts, slow_sandbox):
    place = ["--base-url", slow_sandbox.url]
    job_id = shell("submit", prompts("One.", "Two."), *SEND, *place).stdout.strip()
    result = shell("write", job_id, "--out", "answers.parquet", *place)
    assert result.exit_code == 4
    assert pq.read_table("answers.parquet")["result_type"].to_pylist() == [None, None]


def test_list_and_status_are_plain_lines_in_a_pipe(shell, prompts):
    shell("run", prompts("One."), *ASK, "--name", "numbers", "--out", "answers.parquet")
    listed = shell("list")
    header, line = listed.stdout.splitlines()
    assert header.split() == ["JOB", "STATE", "ROWS", "ANSWERED", "COST", "SUBMITTED", "BY", "NAME"]
    assert line.endswith("numbers")
    newest = shell("status")
    assert "1 answered" in newest.stdout
    assert "msgbatch_" in newest.stdout
    assert newest.stdout == shell("status", line.split()[0]).stdout
    assert "\x1b" not in listed.stdout + newest.stdout


def test_an_empty_store_says_how_to_start(shell):
    result = shell("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "claude-pipeline run --help" in result.stderr
    assert shell("status").exit_code == 1
    assert shell("advance").stderr == "No job is open; there is nothing to do.\n"


def test_json_is_the_status_wherever_it_is_asked_for(shell, prompts):
    run = json.loads(shell("run", prompts("One."), *ASK, "--out", "answers.parquet", "--json").stdout)
    assert (run["state"], run["counts"]["succeeded"], run["unanswered"]) == ("ended", 1, 0)
    job_id = run["job_id"]
    submitted_again = json.loads(shell("submit", prompts("One."), *SEND, "--json").stdout)
    run["submitted_at"] = submitted_again["submitted_at"]
    assert submitted_again == run
    for words in (["status", job_id], ["wait", job_id], ["advance", job_id], ["write", job_id, "--out", "a.csv"]):
        assert json.loads(shell(*words, "--json").stdout) == run
    assert json.loads(shell("list", "--json").stdout) == [run]
    assert json.loads(shell("advance", "--json").stdout) == []


def test_advance_moves_every_open_job(shell, prompts, slow_sandbox):
    place = ["--base-url", slow_sandbox.url]
    job_id = shell("submit", prompts("One."), *SEND, *place).stdout.strip()
    result = shell("advance", *place)
    assert result.stdout.startswith(f"{job_id} in_progress")
    assert result.stdout == shell("advance", job_id, *place).stdout


def test_cancel_says_what_happens_and_resume_goes_on(shell, prompts, slow_sandbox):
    place = ["--base-url", slow_sandbox.url]
    job_id = shell("submit", prompts("One."), *SEND, *place).stdout.strip()
    canceled = shell("cancel", job_id, *place)
    assert canceled.exit_code == 0
    assert job_id in canceled.stderr
    resumed = shell("resume", job_id, *place, "--json")
    assert json.loads(resumed.stdout)["job_id"] == job_id


def test_an_unknown_job_names_the_nearest(shell, prompts):
    job_id = shell("submit", prompts("One."), *SEND).stdout.strip()
    result = shell("status", f"{job_id[:-1]}_")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: No job ")
    assert f"Did you mean {job_id}?" in result.stderr


def test_no_credentials_is_one_line_with_the_way_out(shell, prompts, monkeypatch, tmp_path):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = shell("run", prompts("One."), *ASK, "--out", "answers.parquet")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: No credentials for the Anthropic API.")


def test_a_place_that_cannot_be_written_is_said_before_anything_is_sent(shell, prompts, tmp_path):
    result = shell("run", prompts("One."), *ASK, "--out", "answers.xlsx")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.parquet"]


def test_the_sandbox_says_what_is_wrong_with_a_rate_or_a_port(shell, sandbox):
    assert "'x' is not TYPE=SHARE" in shell("sandbox", "--error-rate", "x").stderr
    assert shell("sandbox", "--error-rate", "api_error=3").exit_code == 2
    taken = shell("sandbox", "--port", sandbox.url.rpartition(":")[2])
    assert taken.exit_code == 1
    assert taken.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--prompt-column prompt, or --template"),
        (["--prompt-column", "a", "--template", "b"], "--prompt-column and --template exclude each other"),
        (["--template", "a", "--param", "effort=high"], "--param 'effort=\"high\"'"),
        (["--template", "a", "--param", "effort"], "'effort' is not KEY=JSON"),
        (["--template", "a", "--param", "top_k=1", "--param", "top_k=2"], "'top_k' is given twice"),
        (["--template", "a", "--limit", "0"], "--limit"),
    ],
)
def test_bad_usage_is_exit_code_2_and_says_what_to_give(shell, words, message):
    result = shell("submit", "x.parquet", "--model", "m", "--max-tokens", "5", *words)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("missing", ["--model", "--max-tokens", "--out"])
def test_a_missing_option_is_named(shell, missing):
    given = {"--model": "m", "--max-tokens": "5", "--out": "a.csv"}
    words = [word for option, value in given.items() if option != missing for word in (option, value)]
    result = shell("run", "x.parquet", "--prompt-column", "a", *words)
    assert result.exit_code == 2
    assert f"Missing option '{missing}'" in result.stderr


def test_commands_are_listed_in_the_order_a_newcomer_needs_them(shell):
    assert main.list_commands(click.Context(main)) == COMMANDS
    assert shell("--version").stdout == f"claude-pipeline, version {cp.__version__}\n"


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_fits_eighty_columns(shell, command):
    result = shell(*command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\b" not in result.stdout
