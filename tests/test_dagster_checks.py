"""The checks of an answers asset: what they hold up, what they say, and that they can be executed alone."""

import sqlite3
from contextlib import closing

import dagster as dg
import pyarrow as pa
import pytest
from locations import LABELS, REPORT, REVIEWS, Location, build_labels

import claude_pipeline as cp
from claude_pipeline.dagster import Checks, ClaudeResource


@pytest.fixture
def slow_sandbox():
    """Run a sandbox whose batches end when a test steps its clock."""
    with cp.Sandbox(batch_seconds=3600) as server:
        yield server


@pytest.fixture
def locate(store):
    """Open a code location whose batches go to a sandbox."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield lambda sandbox, *definitions: Location(
            instance, ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store)), *definitions
        )


def test_too_few_answers_are_a_warning_with_counts_and_hold_nothing_up(locate):
    def fail_two(_custom_id, params, _attempt):
        return "invalid_request_error" if params["messages"][0]["content"] < "Label: Review 2" else None

    with cp.Sandbox(rows=fail_two) as sandbox:
        location = locate(sandbox, build_labels(checks=Checks(min_succeeded=0.9)), REPORT)
        run = location.materialize()

    check = run.checks["succeeded"]
    assert (run.success, run.materialized) == (True, ["labels_batch", "labels", "report"])
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == "4 of 6 rows with a prompt are answered."
    said = {name: value.value for name, value in check.metadata.items()}
    assert [row.data["row"] for row in said.pop("first rows").records] == [0, 1]
    assert said == {"rows": 4, "of": 6, "share": pytest.approx(2 / 3), "limit": 0.9}


def test_enough_answers_pass_the_check_and_blank_prompts_do_not_count(locate):
    table = pa.concat_tables([REVIEWS, pa.table({"id": [6, 7], "text": ["", ""]})])
    with cp.Sandbox(
        rows=lambda _id, params, _attempt: "expired" if "5" in str(params["messages"]) else None
    ) as sandbox:
        options = {"source": table, "template": None, "prompt_column": "text", "max_attempts": 1}
        location = locate(sandbox, build_labels(**options, checks=Checks(min_succeeded=0.8)))
        check = location.materialize().checks["succeeded"]

    assert check.passed
    assert check.description == "5 of 6 rows with a prompt are answered."


def test_a_row_missing_from_the_answers_blocks_what_is_downstream(sandbox, locate, store):
    location = locate(sandbox, build_labels(), REPORT)
    location.materialize("labels_batch", "labels")
    with closing(sqlite3.connect(store / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE jobs SET rows = rows + 1")

    run = location.materialize("labels", "report")

    check = run.checks["every_row_once"]
    assert (run.success, run.materialized) == (False, ["labels"])
    assert (check.passed, check.blocking, check.severity) == (False, True, dg.AssetCheckSeverity.ERROR)
    assert {name: value.value for name, value in check.metadata.items()} == {"rows": 6, "input rows": 7}


def test_a_check_can_be_executed_again_alone(sandbox, locate):
    location = locate(sandbox, build_labels())
    location.materialize()

    job = location.defs.resolve_implicit_global_asset_job_def()
    again = job.get_subset(asset_check_selection={dg.AssetCheckKey(LABELS, "succeeded")})
    result = again.execute_in_process(instance=location.instance)

    assert [check.check_name for check in result.get_asset_check_evaluations()] == ["succeeded"]
    assert result.get_asset_materialization_events() == []


def test_a_check_executed_alone_while_batches_run_says_nothing_and_is_green(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels())
    location.materialize("labels_batch")

    job = location.defs.resolve_implicit_global_asset_job_def()
    again = job.get_subset(asset_check_selection={dg.AssetCheckKey(LABELS, "every_row_once")})
    result = again.execute_in_process(instance=location.instance)

    assert (result.success, result.get_asset_check_evaluations()) == (True, [])


def test_the_answers_say_how_often_the_cache_was_hit_and_what_was_saved(sandbox, locate, store):
    system = "Answer with one word, and be as kind as you can. " * 400
    source = pa.concat_tables([REVIEWS, REVIEWS.slice(0, 1)])
    said = locate(sandbox, build_labels(source=source, system=system, cache="1h")).materialize().metadata()

    (status,) = cp.list_jobs(store=store)
    assert said["claude/cache_read_tokens"] == status.cache_read_tokens > 0
    assert said["claude/cache_write_tokens"] == status.cache_write_tokens > 0
    assert said["claude/cache_hit_rate"] == pytest.approx(status.cache_hit_rate, rel=1e-5)
    kinds = ("batches", "caching", "duplicates", "reuse")
    saved = {kind: said[f"claude/saved_by_{kind}_usd"] for kind in kinds}
    assert saved["reuse"] == 0
    assert min(saved["batches"], saved["caching"], saved["duplicates"]) > 0
    assert said["claude/saved_usd"] == pytest.approx(sum(saved.values()), rel=1e-4)


def test_what_cannot_be_told_without_a_price_has_no_key(sandbox, locate):
    said = locate(sandbox, build_labels(model="claude-of-tomorrow")).materialize().metadata()

    assert {key for key in said if key.endswith("_usd")} == {
        "claude/saved_by_caching_usd",
        "claude/saved_by_duplicates_usd",
        "claude/saved_by_reuse_usd",
    }
    assert "claude/cache_hit_rate" not in said


ANSWERS = ["Fine.", "I would rather not.", "It goes on and", "Fine.", "Fine.", "Fine."]


def answer(params):
    """Refuse the second row, and stop the third at max_tokens."""
    number = int(params["messages"][0]["content"][len("Label: Review ")])
    stop_reason = {1: "refusal", 2: "max_tokens"}.get(number, "end_turn")
    return {"content": [{"type": "text", "text": ANSWERS[number]}], "stop_reason": stop_reason}


def test_answers_that_are_cut_off_or_refused_are_warnings_that_show_the_rows_by_their_id(locate):
    with cp.Sandbox(answer=answer) as sandbox:
        location = locate(sandbox, build_labels(id_column="id"), REPORT)
        run = location.materialize()

    truncated, refused = run.checks["truncated"], run.checks["refused"]
    assert run.materialized == ["labels_batch", "labels", "report"]
    assert (truncated.passed, truncated.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert truncated.description == "1 of 6 answers are cut off at max_tokens."
    (row,) = truncated.metadata["first rows"].records
    assert {name: row.data[name] for name in ("row", "id", "stop_reason", "response")} == {
        "row": 2,
        "id": 2,
        "stop_reason": "max_tokens",
        "response": "It goes on and",
    }
    (row,) = refused.metadata["first rows"].records
    assert (row.data["row"], row.data["response"]) == (1, "I would rather not.")


def test_limits_let_some_answers_be_cut_off_or_refused(locate):
    with cp.Sandbox(answer=answer) as sandbox:
        run = locate(sandbox, build_labels(checks=Checks(max_truncated=0.2, max_refused=0.2))).materialize()

    assert {name: check.passed for name, check in run.checks.items()} == dict.fromkeys(
        ("every_row_once", "succeeded", "truncated", "refused"), True
    )


def test_a_check_named_an_error_blocks_what_is_downstream(locate):
    with cp.Sandbox(answer=answer) as sandbox:
        location = locate(sandbox, build_labels(checks=Checks(errors=["refused"])), REPORT)
        run = location.materialize()

    assert (run.success, run.materialized) == (False, ["labels_batch", "labels"])
    assert {name: check.severity.value for name, check in run.checks.items()} == {
        "every_row_once": "ERROR",
        "succeeded": "WARN",
        "truncated": "WARN",
        "refused": "ERROR",
    }


def test_answers_that_do_not_fit_the_schema_are_shown_with_what_is_wrong(locate):
    def fit(params):
        return '{"score": "high"}' if "Review 4" in params["messages"][0]["content"] else '{"score": 3}'

    with cp.Sandbox(answer=fit) as sandbox:
        schema = {"type": "object", "properties": {"score": {"type": "integer", "description": "From 0 to 10."}}}
        run = locate(sandbox, build_labels(output_schema=schema)).materialize()

    check = run.checks["schema_valid"]
    assert (check.passed, check.description) == (False, "5 of 6 answers fit the output schema.")
    (row,) = check.metadata["first rows"].records
    assert row.data["row"] == 4
    assert row.data["error_message"].startswith("$.score: expected a whole number")
    columns = {column.name: column.description for column in run.metadata()["dagster/column_schema"].columns}
    assert columns["score"] == "From 0 to 10."
    assert columns["response"] == "The text of the answer."
    assert columns["text"] is None
    assert run.metadata()["preview"].startswith("| score | id |")


@pytest.mark.parametrize(("budget", "passed"), [(1.0, True), (1e-9, False)])
def test_the_cost_may_be_limited(sandbox, locate, budget, passed):
    check = locate(sandbox, build_labels(checks=Checks(max_cost_usd=budget))).materialize().checks["cost_within_budget"]

    assert (check.passed, check.severity) == (passed, dg.AssetCheckSeverity.WARN)
    assert check.metadata["budget_usd"].value == budget


def test_a_cost_that_nobody_knows_is_not_within_a_budget(sandbox, locate):
    labels = build_labels(model="claude-of-tomorrow", checks=Checks(max_cost_usd=1))
    check = locate(sandbox, labels).materialize().checks["cost_within_budget"]

    assert (check.passed, check.description) == (False, "The cost is unknown: a model has no known price.")
