"""Two jobs side by side."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import submit_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claude_pipeline as cp
from claude_pipeline.cli import main


def end(job):
    return job.wait(poll_interval=0)


def fate(_custom_id, params, _attempt):
    return "invalid_request_error" if "bad" in json.dumps(params) else None


@pytest.fixture(scope="module")
def sandbox():
    """Run a sandbox that echoes the first sentence, and fails what is bad."""
    with cp.Sandbox(rows=fate) as server:
        yield server


@pytest.fixture
def answered(sandbox, store):
    """Return a job of a table; its answers are the prompts, which the template makes."""

    def job(table, template="{text}", **options):
        source = table if isinstance(table, str) else pa.table(table)
        return end(submit_to(sandbox, source, store=store, template=template, **options))

    return job


TEXTS = {"id": [1, 2, 3], "text": ["a", "b", "c"]}


def test_the_same_answers_have_no_churn(answered):
    job = answered(TEXTS)
    found = cp.compare(job, job)
    assert (found.matched, found.answered, found.different, found.churn) == (3, 3, 0, 0.0)
    assert found.rows.num_rows == 0


def test_a_change_of_prompt_shows_the_rows_that_are_answered_otherwise(answered):
    a = answered({"text": ["one", "two"], "extra": ["", " more"]})
    b = answered({"text": ["one", "two"], "extra": ["", " more"]}, "{text}{extra}")
    found = cp.compare(a, b)
    assert found.rows.to_pydict() == {"row": [1], "response_a": ["two"], "response_b": ["two more"]}
    assert (found.different, found.answered, found.churn) == (1, 2, 0.5)
    assert found.to_pandas()["response_b"].tolist() == ["two more"]


@pytest.mark.parametrize("more", [[], [{"name": "other", "input_schema": {"type": "object"}}]])
def test_answers_that_call_tools_are_compared_with_their_calls(store, more):
    """With one tool its input is typed, with two it is JSON text."""
    fields = {"day": {"type": "string", "format": "date"}, "n": {"type": "integer"}}
    tools = [{"name": "rate", "input_schema": {"type": "object", "properties": fields}}, *more]

    def answer(params):
        number = 1 if "same" in json.dumps(params["messages"]) else params["max_tokens"]
        given = {"day": "2026-11-28", "n": number}
        return [{"type": "tool_use", "id": "toolu_1", "name": "rate", "input": given}]

    with cp.Sandbox(answer=answer) as server:
        jobs = [
            end(submit_to(server, ["same", "other"], store=store, max_tokens=limit, params={"tools": tools}))
            for limit in (20, 30)
        ]
    found = cp.compare(*jobs)
    call = '{"name": "rate", "input": {"day": "2026-11-28", "n": %d}}'
    assert found.rows.to_pydict() == {"row": [1], "response_a": [call % 20], "response_b": [call % 30]}


def test_a_change_of_model_shows_what_it_costs(answered):
    a, b = answered(TEXTS), answered(TEXTS, model="claude-opus-5-5")
    found = cp.compare(a, b)
    assert found.different == 0
    assert (found.cost_a_usd, found.cost_b_usd) == (a.status().cost_usd, b.status().cost_usd)
    assert found.cost_difference_usd == pytest.approx(found.cost_b_usd - found.cost_a_usd)
    assert cp.compare(b, a).cost_difference_usd == -found.cost_difference_usd
    assert found.output_tokens_a == found.output_tokens_b == 3


def test_rows_that_one_job_alone_has_an_answer_for_are_counted_apart(answered):
    texts = {"text": ["a", "b", None], "word": ["", "bad", ""]}
    found = cp.compare(answered(texts), answered(texts, "{text}{word}"))
    assert (found.matched, found.answered, found.different) == (3, 1, 0)
    assert (found.unanswered_a, found.unanswered_b) == (0, 1)


def test_a_column_matches_rows_of_different_inputs(answered):
    a = answered({"id": [1, 2, 3], "text": ["a", "b", "c"]})
    b = answered({"id": [4, 3, 2], "text": ["d", "C", "b"]})
    found = cp.compare(a, b, on="id")
    assert (found.matched, found.only_a, found.only_b) == (2, 1, 1)
    assert found.rows.to_pydict() == {"id": [3], "response_a": ["c"], "response_b": ["C"]}


def test_several_columns_match_rows_together(answered):
    a = answered({"x": [1, 1], "y": ["p", "q"], "text": ["a", "b"]})
    b = answered({"x": [1, 1], "y": ["q", "p"], "text": ["B", "a"]})
    found = cp.compare(a, b, on=["x", "y"])
    assert found.rows.to_pydict() == {"x": [1], "y": ["q"], "response_a": ["b"], "response_b": ["B"]}


def test_prefixes_and_jobs_of_two_stores_are_no_hindrance(answered, sandbox, tmp_path):
    a = answered(TEXTS, prefix="our_")
    b = end(submit_to(sandbox, pa.table(TEXTS), store=tmp_path / "other"))
    assert cp.compare(a, b).answered == 3


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.integers(0, 9), st.sampled_from("pqr"), min_size=1),
    st.dictionaries(st.integers(0, 9), st.sampled_from("pqr"), min_size=1),
)
def test_any_two_tables_are_compared_as_dictionaries_would_be(answered, a, b):
    jobs = [answered({"id": list(table), "text": list(table.values())}) for table in (a, b)]
    found = cp.compare(*jobs, on="id")
    both = a.keys() & b.keys()
    assert {row["id"]: (row["response_a"], row["response_b"]) for row in found.rows.to_pylist()} == {
        key: (a[key], b[key]) for key in both if a[key] != b[key]
    }
    assert (found.matched, found.only_a, found.only_b) == (len(both), len(a) - len(both), len(b) - len(both))


@pytest.mark.parametrize(
    ("other", "on", "message"),
    [
        ({"id": [1, 2], "text": ["a", "b"]}, None, "have different inputs. Pass on="),
        ({"id": [1, 2], "text": ["a", "b"]}, "key", "No column 'key' in"),
        ({"id": [1, 1], "text": ["a", "b"]}, "id", "Two rows of job_.* have id=1"),
        ({"id": ["1", "2"], "text": ["a", "b"]}, "id", "'id' is int64 in job_.*, but string in job_"),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused(answered, other, on, message):
    with pytest.raises(cp.InputError, match=message):
        cp.compare(answered(TEXTS), answered(other), on=on)


def test_lists_tell_no_rows_apart(answered):
    job = answered({"id": [[1], [2]], "text": ["a", "b"]})
    with pytest.raises(cp.InputError, match="id cannot tell rows apart"):
        cp.compare(job, job, on="id")


def test_it_is_shown_as_a_few_lines_and_as_a_small_table(answered):
    a, b = answered({"text": ["a", "b"]}), answered({"text": ["a", "b"]}, "x{text}", name="<b>")
    lines = str(cp.compare(a, b)).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Jobs", "Rows", "Different", "Cost", "Tokens out"]
    assert "2 of 2 (100.0%)" in lines[2]
    assert cp.compare(a, b)._repr_html_().startswith("<table")


# The shell


@pytest.fixture
def shell(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["compare", *words, "--store", str(store)], catch_exceptions=False)


def test_the_shell_prints_figures_and_writes_the_rows(answered, shell, tmp_path):
    a, b = answered({"id": [1], "text": ["a"]}), answered({"id": [1], "text": ["b"]})
    result = shell(a.job_id, b.job_id, "--on", "id", "--out", "rows.parquet")
    assert result.exit_code == 0, result.stderr
    assert "Different:   1 of 1 (100.0%)" in result.stdout
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == [{"id": 1, "response_a": "a", "response_b": "b"}]
    figures = json.loads(shell(a.job_id, b.job_id, "--on", "id", "--json").stdout)
    assert (figures["different"], figures["churn"]) == (1, 1.0)


def test_the_shell_says_in_one_line_why_jobs_cannot_be_compared(answered, shell):
    result = shell(answered({"text": ["a"]}).job_id, answered({"text": ["b"]}).job_id)
    assert (result.exit_code, "have different inputs" in result.stderr) == (1, True)


IN_THE_SHELL = """
import sys
from claude_pipeline.cli import main

a, b, store = sys.argv[1:]
for words in ([a, b], [a, b, "--on", "text"]):
    main(["compare", *words, "--store", store], standalone_mode=False)
print("pandas" in sys.modules)
"""


def test_the_shell_compares_without_pandas(answered, store, tmp_path):
    (tmp_path / "table.csv").write_text("text\na\nb\n")
    jobs = [answered(str(tmp_path / "table.csv"), template).job_id for template in ("{text}", "x{text}")]
    words = [sys.executable, "-W", "error", "-c", IN_THE_SHELL, *jobs, store]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
