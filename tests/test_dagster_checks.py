"""The checks of an answers asset: what they hold up, what they say, and that they can be executed alone."""

import sqlite3
from contextlib import closing

import dagster as dg
import pyarrow as pa
import pytest
from locations import LABELS, REPORT, REVIEWS, Location, build_labels

import claude_pipeline as cp
from claude_pipeline.dagster import ClaudeResource


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
        location = locate(sandbox, build_labels(min_succeeded=0.9), REPORT)
        run = location.materialize()

    check = run.checks["succeeded"]
    assert (run.success, run.materialized) == (True, ["labels_batch", "labels", "report"])
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == "4 of 6 rows with a prompt are answered."
    assert {name: value.value for name, value in check.metadata.items()} == {
        "answered": 4,
        "unanswered": 2,
        "share": pytest.approx(2 / 3),
    }


def test_enough_answers_pass_the_check_and_blank_prompts_do_not_count(locate):
    table = pa.concat_tables([REVIEWS, pa.table({"id": [6, 7], "text": ["", ""]})])
    with cp.Sandbox(
        rows=lambda _id, params, _attempt: "expired" if "5" in str(params["messages"]) else None
    ) as sandbox:
        options = {"source": table, "template": None, "prompt_column": "text", "max_attempts": 1}
        location = locate(sandbox, build_labels(**options, min_succeeded=0.8))
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
