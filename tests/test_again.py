"""Rows without an answer as a frame, and chosen rows asked afresh."""

import json
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from anthropic import Anthropic
from click.testing import CliRunner
from conftest import submit_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import claude_pipeline as cp
from claude_pipeline.cli import main


def end(job):
    return job.wait(poll_interval=0)


def fate(_custom_id, params, _attempt):
    """Let a prompt choose that it fails."""
    return "invalid_request_error" if "bad" in json.dumps(params) else None


@pytest.fixture
def sandbox():
    with cp.Sandbox(rows=fate) as server:
        yield server


@pytest.fixture
def shell(sandbox, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
    return lambda *words: CliRunner().invoke(main, [*words, "--store", str(store)], catch_exceptions=False)


def prompts(sandbox):
    return [json.loads(request.params)["messages"][0]["content"] for request in sandbox.requests()]


# Rows without an answer


def test_failed_rows_have_their_columns_and_errors_and_their_labels_in_the_frame(ask):
    frame = pd.DataFrame({"text": ["a", "bad", "c", "bad too"], "n": [1, 2, 3, 4]}, index=[10, 20, 30, 40])
    found = end(ask(frame)).failed()
    assert found.index.tolist() == [20, 40]
    assert found["n"].tolist() == [2, 4]
    assert set(found["error_type"]) == {"invalid_request_error"}
    assert found["error_message"].notna().all()


@pytest.mark.parametrize("index", [pd.RangeIndex(10, 18, 2), pd.Index(list("ijkl"), name="key")])
def test_failed_rows_have_the_labels_that_to_pandas_gives(ask, index):
    job = end(ask(pd.DataFrame({"text": ["a", "bad", "c", "bad too"]}, index=index)))
    assert job.failed().index.tolist() == index[[1, 3]].tolist()
    assert job.failed()["text"].tolist() == job.to_pandas().loc[index[[1, 3]], "text"].tolist()


def test_rows_of_a_file_are_labeled_by_their_position(ask, tmp_path):
    pq.write_table(pa.table({"text": ["a", "bad"]}), tmp_path / "table.parquet")
    assert end(ask(str(tmp_path / "table.parquet"))).failed().index.tolist() == [1]


def test_blank_prompts_are_no_failures_but_rows_that_cannot_be_sent_are(ask):
    job = end(ask(pa.table({"text": [None, "a"], "other": ["x", None]}), template="{text} {other}"))
    assert job.failed().index.tolist() == [0, 1]
    job = end(ask([None, " ", "a"]))
    assert job.failed().empty
    assert job.failed().columns.tolist() == job.to_arrow().column_names


def test_a_prefix_before_our_columns_hides_no_failure(ask):
    assert end(ask(["a", "bad"], prefix="our_")).failed()["our_error_type"].tolist() == ["invalid_request_error"]


def test_before_the_end_rows_that_may_still_be_answered_have_not_failed(store):
    with cp.Sandbox(batch_seconds=3600) as sandbox:
        job = submit_to(sandbox, ["a", None], store=store)
        assert job.failed().empty


def test_rows_of_a_canceled_job_have_failed(store):
    with cp.Sandbox(batch_seconds=3600) as sandbox:
        job = submit_to(sandbox, ["a", "b"], store=store)
        job.cancel()
        assert end(job).failed().index.tolist() == [0, 1]


# Chosen rows, asked afresh


def test_rows_asked_again_are_a_job_of_their_own_that_is_paid_anew(ask, sandbox):
    job = end(ask(pa.table({"id": [7, 8, 9], "text": ["a", "b", "c"]})))
    before = job.to_arrow()
    again = end(job.ask_again([2, 0]))
    assert again.job_id != job.job_id
    assert again.to_arrow().select(["id", "response"]).to_pydict() == {"id": [7, 9], "response": ["a", "c"]}
    assert prompts(sandbox) == ["a", "b", "c", "a", "c"]
    assert again.status().cost_usd > 0
    assert job.to_arrow().equals(before)


def test_the_same_rows_again_are_the_same_job_and_paid_once(ask, sandbox):
    job = end(ask(["a", "b"]))
    first = end(job.ask_again([0, 1]))
    assert job.ask_again([1, 0, 1]).job_id == first.job_id
    assert len(prompts(sandbox)) == 4


def test_another_salt_and_the_job_that_asked_again_ask_once_more(ask, sandbox):
    job = end(ask(["a"]))
    jobs = {job.ask_again([0]).job_id, job.ask_again([0], salt="2").job_id, job.ask_again([0]).ask_again([0]).job_id}
    assert len(jobs) == 3
    assert len({request.custom_id for request in sandbox.requests()}) == 4


def test_everything_but_the_salt_is_sent_as_before(ask, sandbox):
    job = end(ask(["a"], system="Brief.", params={"metadata": {"user_id": "u"}}))
    job.ask_again([0])
    first, second = sandbox.requests()
    assert first.params == second.params
    assert first.custom_id != second.custom_id


def choices(job):
    frame = job.to_pandas()
    bad = frame["text"].str.startswith("bad")
    return {
        "the failed rows": job.failed(),
        "their labels": job.failed().index,
        "a filter of the frame": frame[bad],
        "positions": [1, 3],
        "a mask of pandas": bad,
        "a mask of NumPy": bad.to_numpy(),
        "a mask of Python": bad.tolist(),
        "a mask of Arrow": pc.starts_with(job.to_arrow()["text"], "bad"),
    }


def test_rows_are_chosen_by_labels_positions_and_masks_alike(ask):
    job = end(ask(pd.DataFrame({"text": ["a", "bad", "c", "bad too"]}, index=[3, 2, 1, 0])))
    jobs = {what: job.ask_again(rows).job_id for what, rows in choices(job).items()}
    assert len(set(jobs.values())) == 1, jobs


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_choice_of_any_rows_asks_these_in_their_order(ask, data):
    texts = data.draw(st.lists(st.text("abc \n", max_size=3).map(lambda text: f"x{text}"), min_size=1, max_size=9))
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=9))
    again = end(end(ask(texts)).ask_again(rows))
    assert again.to_arrow()["text"].to_pylist() == [texts[row] for row in sorted(set(rows))]
    assert again.status().unanswered == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "No rows are chosen"),
        ([2], "There is no row 2. The job has 2 rows, counted from 0"),
        ([-1], "There is no row -1"),
        ([True], "There are 1 truth values for 2 rows"),
        (["0"], "'0' is no position"),
        ("0", "Cannot tell rows by '0'"),
        (0, "Cannot tell rows by 0"),
        (pd.DataFrame({"text": ["a"]}, index=[5]), "No row of the job has the label 5"),
    ],
)
def test_rows_that_there_are_not_are_refused_before_anything_is_asked(ask, sandbox, rows, message):
    job = end(ask(["a", "b"]))
    with pytest.raises(cp.InputError, match=message.replace("(", r"\(")):
        job.ask_again(rows)
    assert len(prompts(sandbox)) == 2


def test_labels_that_name_several_rows_are_refused(ask):
    job = end(ask(pd.DataFrame({"text": ["bad", "b"]}, index=[1, 1])))
    with pytest.raises(cp.InputError, match="names several rows alike"):
        job.ask_again(job.failed())


def test_rows_with_salts_of_their_own_are_refused_with_the_way_out(ask):
    job = end(ask(pa.table({"text": ["a", "a"], "sample": ["1", "2"]}), salt_column="sample"))
    with pytest.raises(cp.InputError, match="salts of their own, in column 'sample'"):
        job.ask_again([0])


def test_the_estimate_says_what_it_costs_and_sends_nothing(ask, sandbox):
    job = end(ask(["a", "bad", "c"]))
    found = job.estimate_again([0, 1])
    assert (found.rows, found.to_send, found.answered) == (2, 2, 0)
    assert found.batch_usd.expected > 0
    assert len(prompts(sandbox)) == 3
    end(job.ask_again([0, 2]))
    assert job.estimate_again([0, 2]).to_send == 0


def test_what_is_expected_to_cost_more_than_it_may_is_refused(ask, sandbox):
    job = end(ask(["a word " * 500]))
    with pytest.raises(cp.InputError, match=r"more than the .* left of max_cost_usd\. Nothing was sent"):
        job.ask_again([0], max_cost_usd=1e-9)
    with pytest.raises(cp.InputError, match="max_cost_usd is 0"):
        job.ask_again([0], max_cost_usd=0)
    assert len(prompts(sandbox)) == 1
    assert end(job.ask_again([0], max_cost_usd=1)).status().unanswered == 0


def test_a_client_of_another_account_asks_nothing_again(ask, store):
    job = end(ask(["a"]))
    with cp.Sandbox(workspace="theirs") as other, Anthropic(base_url=other.url, api_key="x") as client:
        with pytest.raises(cp.AccountError):
            cp.open_job(job.job_id, store=store, client=client).ask_again([0])
        assert list(other.requests()) == []


# The shell


def test_the_shell_shows_failed_rows_counted_from_one(ask, shell):
    job = end(ask(["a", "bad", None]))
    result = shell("failed", job.job_id)
    assert result.exit_code == 0
    header, line = result.stdout.splitlines()
    assert header.split() == ["ROW", "ERROR", "MESSAGE"]
    assert line.split()[:2] == ["2", "invalid_request_error"]
    assert json.loads(shell("failed", job.job_id, "--json").stdout)[0]["row"] == 2


def test_the_shell_writes_failed_rows_with_their_columns(ask, shell, tmp_path):
    job = end(ask(["a", "bad"]))
    assert shell("failed", job.job_id, "--out", "failed.parquet").exit_code == 0
    assert pq.read_table(tmp_path / "failed.parquet")["text"].to_pylist() == ["bad"]
    assert "No row failed" in shell("failed", end(ask(["a"])).job_id).stderr


def test_the_shell_asks_rows_again_after_it_has_said_what_they_cost(ask, shell, sandbox, store):
    job = end(ask(["a", "b", "c", "d"]))
    result = shell("ask-again", job.job_id, "--rows", "1,3-4", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "Worst case" in result.stderr or "WORST CASE" in result.stderr
    assert prompts(sandbox)[4:] == ["a", "c", "d"]
    again = end(cp.open_job(result.stdout.strip(), store=store, base_url=sandbox.url))
    assert again.status().unanswered == 0


def test_the_shell_asks_failed_and_truncated_rows_again(ask, shell, sandbox):
    job = end(ask(["a", "bad", "long " * 40], max_tokens=4))
    assert json.loads(shell("ask-again", job.job_id, "--truncated", "--yes", "--json").stdout)["rows"] == 1
    assert shell("ask-again", job.job_id, "--failed", "--yes").exit_code == 0
    assert prompts(sandbox)[3:] == ["long " * 40, "bad"]
    nothing = shell("ask-again", end(ask(["a"])).job_id, "--failed", "--yes")
    assert (nothing.exit_code, "has no failed rows" in nothing.stderr) == (0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give one of --rows, --failed and --truncated"),
        (["--rows", "1", "--failed"], "Give one of"),
        (["--rows", "0"], "'0' is no row"),
        (["--rows", "3-2"], "'3-2' is no row"),
        (["--rows", "1,x"], "'x' is no row"),
        (["--rows", "1"], "Pass --yes"),
    ],
)
def test_the_shell_asks_nothing_again_on_bad_usage(ask, shell, sandbox, words, message):
    job = end(ask(["a"]))
    result = shell("ask-again", job.job_id, *words)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert len(prompts(sandbox)) == 1


IN_THE_SHELL = """
import sys
from claude_pipeline.cli import main

main(["failed", sys.argv[1], "--store", sys.argv[2]], standalone_mode=False)
print("pandas" in sys.modules)
"""


def test_the_shell_shows_failed_rows_without_pandas(sandbox, store, tmp_path):
    (tmp_path / "table.csv").write_text("text\na\nbad\n")
    job = end(submit_to(sandbox, str(tmp_path / "table.csv"), store=store))
    words = [sys.executable, "-W", "error", "-c", IN_THE_SHELL, job.job_id, store]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "invalid_request_error" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
