"""`claude-pipeline estimate`, in this process, against a real sandbox."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import claude_pipeline as cp
from claude_pipeline.cli import main

ASK = ["--prompt-column", "prompt", "--model", "claude-haiku-4-5", "--max-tokens", "16"]


@pytest.fixture(scope="module")
def sandbox():
    with cp.Sandbox() as server:
        yield server


@pytest.fixture
def shell(sandbox, tmp_path, monkeypatch):
    """Run a command in a folder of its own, against the sandbox."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": ["a question", "another question", " "]}), path)
    return path


def test_the_table_says_rows_tokens_and_dollars(shell, prompts):
    result = shell("estimate", prompts, *ASK)
    assert result.exit_code == 0
    assert "3: 1 skipped (blank prompt)" in result.stdout
    assert "2 requests counted by the API" in result.stdout
    for heading in ("EXPECTED", "LOW", "HIGH", "WORST CASE", "Tokens out", "Batch", "Live"):
        assert heading in result.stdout


@pytest.mark.parametrize(("rows", "advised"), [(20, False), (21, True)])
def test_a_limit_is_advised_in_no_language_and_only_where_it_leaves_rows(shell, rows, advised):
    pq.write_table(pa.table({"prompt": [f"question {n}" for n in range(rows)]}), "prompts.parquet")
    said = shell("estimate", "prompts.parquet", *ASK).stdout
    assert "limit=" not in said
    assert ("Send only the first 20 rows" in said) == advised


def test_json_is_the_same_figures(shell, prompts):
    found = json.loads(shell("estimate", prompts, *ASK, "--json", "--exact", 0).stdout)
    assert (found["rows"], found["to_send"], found["counted"]) == (3, 2, 0)
    assert found["live_usd"]["worst"] == pytest.approx(2 * found["batch_usd"]["worst"])


def test_nothing_is_made_in_the_folder(shell, prompts, tmp_path):
    shell("estimate", prompts, *ASK)
    assert [path.name for path in tmp_path.iterdir()] == [prompts.name]


def test_what_was_answered_costs_nothing(shell, prompts):
    job = shell("submit", prompts, *ASK).stdout.strip()
    shell("wait", job, "--poll-interval", 0.05)
    result = shell("estimate", prompts, *ASK)
    assert "2 answered or asked already, free" in result.stdout
    assert "nothing to send" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "m", "--max-tokens", 1], "Missing the prompt"),
        ([*ASK, "--template", "{prompt}"], "exclude each other"),
        ([*ASK[:2], "--max-tokens", 1], "Missing option '--model'"),
        ([*ASK, "--exact", -1], "Invalid value for '--exact'"),
    ],
)
def test_bad_usage_exits_with_2(shell, prompts, words, said):
    result = shell("estimate", prompts, *words)
    assert (result.exit_code, said in result.stderr) == (2, True)


def test_an_error_is_one_line_and_exits_with_1(shell, prompts):
    result = shell("estimate", prompts, *ASK, "--param", "max_tokns=1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: params has 'max_tokns'")


def test_a_warning_is_one_line_and_stops_nothing(shell, prompts):
    result = shell("submit", prompts, *ASK, "--system", "Be brief.", "--cache", "1h")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: What cache= should keep has 2 tokens")
