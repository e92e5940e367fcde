"""What Dagster users expect of an asset, the job that cancels, and the hook for alerts."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from locations import LABELS, LABELS_BATCH, REPORT, REVIEWS, Location, asset_of, build_labels

import claude_pipeline as cp
from claude_pipeline.dagster import Alert, Checks, ClaudeResource, build_alert_defs, build_batch_defs


@pytest.fixture
def slow_sandbox():
    """Run a sandbox whose batches end when a test steps its clock."""
    with cp.Sandbox(batch_seconds=3600) as server:
        yield server


@pytest.fixture
def instance():
    """Keep runs and events in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def locate(store, instance):
    """Open a code location whose batches go to a sandbox."""
    return lambda sandbox, *definitions: Location(
        instance, ClaudeResource(base_url=sandbox.url, api_key="sandbox", store=str(store)), *definitions
    )


def assets_of(defs):
    batch, answers = defs.assets
    (before,), (after,) = batch.specs, answers.specs
    return batch, answers, before, after


def test_what_describes_an_asset_stands_on_both():
    options = {"group_name": "nlp", "owners": ["team:nlp"], "tags": {"domain": "reviews"}}
    _, _, before, after = assets_of(build_labels(**options))

    for spec in (before, after):
        assert (spec.group_name, list(spec.owners), spec.tags["domain"]) == ("nlp", ["team:nlp"], "reviews")
    assert (before.kinds, after.kinds) == ({"claude"}, {"claude", "parquet"})


def test_kinds_take_the_place_of_parquet():
    _, _, _, after = assets_of(build_labels(kinds=["duckdb"]))

    assert after.kinds == {"claude", "duckdb"}


def test_what_starts_an_asset_is_the_submissions_and_how_old_it_may_get_is_the_answers():
    freshness = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36))
    labels = build_labels(
        automation_condition=dg.AutomationCondition.eager(), freshness_policy=freshness, deps=["consent"]
    )
    _, _, before, after = assets_of(labels)

    assert before.automation_condition.get_label() == "eager"
    assert (after.automation_condition, after.freshness_policy, before.freshness_policy) == (None, freshness, None)
    assert [dep.asset_key for dep in before.deps] == [dg.AssetKey("consent")]


def test_both_steps_have_the_pool_and_are_retried():
    policy = dg.RetryPolicy(max_retries=2)
    batch, answers, _, _ = assets_of(build_labels(pool="anthropic", retry_policy=policy))

    assert [(asset.op.pool, asset.op.retry_policy) for asset in (batch, answers)] == [("anthropic", policy)] * 2


def test_the_page_links_to_the_line_that_calls_the_builder():
    (_, _, before, after) = assets_of(
        build_batch_defs(key="labels", source="x.csv", template="{text}", model="claude-haiku-4-5", max_tokens=9)
    )

    for spec in (before, after):
        (place,) = spec.metadata["dagster/code_references"].code_references
        line = Path(__file__).read_text().splitlines()[place.line_number - 1]
        assert (place.file_path, line.strip().split("(")[0]) == (__file__, "build_batch_defs")


@pytest.mark.filterwarnings("ignore:Parameter `include_sources`")  # of Dagster's own evaluate_automation_conditions
def test_a_submission_that_is_eager_is_requested_when_its_table_is_new(slow_sandbox, locate):
    labels = build_labels(upstream="reviews", automation_condition=dg.AutomationCondition.eager())
    location = locate(slow_sandbox, asset_of(REVIEWS), labels)
    before = dg.evaluate_automation_conditions(location.defs, instance=location.instance)
    location.materialize("reviews")

    after = dg.evaluate_automation_conditions(location.defs, instance=location.instance, cursor=before.cursor)

    assert after.get_num_requested(LABELS_BATCH) == 1
    assert after.get_num_requested(LABELS) == 0


def test_a_step_that_is_retried_after_an_outage_sends_everything_once(sandbox, locate):
    location = locate(sandbox, build_labels(retry_policy=dg.RetryPolicy(max_retries=2)))
    sandbox.fail_next("list", 503, times=4)

    run = location.materialize("labels_batch")

    retried = [event.event_type_value for event in run.result.all_events if "RETRY" in event.event_type_value]
    assert (run.success, retried) == (True, ["STEP_UP_FOR_RETRY", "STEP_RESTARTED"][: len(retried)])
    assert retried
    assert sandbox.usage()["batches"] == 1


def test_what_asking_again_does_not_mend_is_not_retried(sandbox, locate):
    location = locate(sandbox, build_labels(template="{no_such_column}", retry_policy=dg.RetryPolicy(max_retries=3)))

    run = location.materialize("labels_batch")

    assert not run.success
    assert not [event for event in run.result.all_events if "RETRY" in event.event_type_value]


def test_the_job_that_cancels_leaves_what_was_answered_to_the_sensor(slow_sandbox, locate, store):
    location = locate(slow_sandbox, build_labels(max_batch_requests=2, max_queued_requests=2))
    location.materialize("labels_batch")
    slow_sandbox.advance_clock(3600)
    location.look()

    result = location.defs.resolve_job_def("labels_cancel_job").execute_in_process(instance=location.instance)
    (canceling,) = cp.list_jobs(store=store)
    slow_sandbox.advance_clock(3600)
    run = location.look()

    assert result.success
    assert canceling.state == "canceling"
    assert run.metadata()["claude/rows_succeeded"] == 2
    assert slow_sandbox.usage()["batches"] == 2


def test_the_job_that_cancels_may_be_told_the_partitions(slow_sandbox, locate, store):
    shops = dg.StaticPartitionsDefinition(["0", "1"])
    location = locate(slow_sandbox, build_labels(source=REVIEWS, partitions_def=shops, partition_column="id"))
    for shop in ("0", "1"):
        location.materialize("labels_batch", partition_key=shop)

    job = location.defs.resolve_job_def("labels_cancel_job")
    config = {"ops": {"labels_cancel": {"config": {"partitions": ["1"]}}}}
    job.execute_in_process(instance=location.instance, run_config=config)

    states = {status.name: status.state for status in cp.list_jobs(store=store)}
    assert states == {"labels[0]": "in_progress", "labels[1]": "canceling"}


def test_the_job_that_cancels_has_nothing_to_do_when_all_has_ended(sandbox, locate):
    location = locate(sandbox, build_labels())
    location.materialize()

    assert location.defs.resolve_job_def("labels_cancel_job").execute_in_process(instance=location.instance).success


def test_a_terminated_run_leaves_its_batches_to_the_sensor(slow_sandbox, locate):
    location = locate(slow_sandbox, build_labels())

    run = location.materialize("labels_batch")
    location.instance.report_run_canceled(location.instance.get_run_by_id(run.result.run_id))
    slow_sandbox.advance_clock(3600)

    assert location.look().materialized == ["labels"]
    assert slow_sandbox.usage()["batches"] == 1


class Heard(list):
    """Hears alerts, and lets the sensors look at a run."""

    def defs(self):
        return build_alert_defs(self.append)

    def tell(self, location, run, sensor):
        instance, dagster_run = location.instance, location.instance.get_run_by_id(run.result.run_id)
        events = [e for e in run.result.all_events if e.event_type_value in {"PIPELINE_SUCCESS", "PIPELINE_FAILURE"}]
        context = dg.build_run_status_sensor_context(sensor, events[-1], instance, dagster_run)
        context = context.for_run_failure() if sensor.endswith("runs") else context
        location.defs.resolve_sensor_def(sensor)(context)


@pytest.fixture
def heard():
    return Heard()


def test_a_failed_run_is_told_with_its_reason(sandbox, locate, heard):
    location = locate(sandbox, build_labels(), heard.defs())
    run = location.materialize("labels")

    heard.tell(location, run, "claude_alerts_of_runs")

    assert heard == [
        Alert(
            "__ASSET_JOB failed",
            "Nothing was submitted yet. Materialize labels_batch first.",
            dg.AssetCheckSeverity.ERROR,
            run.result.run_id,
        )
    ]


def test_a_failed_check_of_a_run_that_succeeded_is_told(locate, heard):
    with cp.Sandbox(rows=lambda _id, _params, _attempt: "invalid_request_error") as sandbox:
        location = locate(sandbox, build_labels(), heard.defs())
        run = location.materialize()

    heard.tell(location, run, "claude_alerts_of_checks")

    assert heard == [
        Alert(
            "Check succeeded of labels did not pass",
            "0 of 6 rows with a prompt are answered.",
            dg.AssetCheckSeverity.WARN,
            run.result.run_id,
        )
    ]


def test_a_check_that_failed_its_run_is_told_with_it(locate, heard):
    with cp.Sandbox(rows=lambda _id, _params, _attempt: "invalid_request_error") as sandbox:
        labels = build_labels(checks=Checks(errors=["succeeded"]))
        location = locate(sandbox, labels, REPORT, heard.defs())
        run = location.materialize()

    heard.tell(location, run, "claude_alerts_of_runs")

    assert not run.success
    assert [alert.title for alert in heard] == ["__ASSET_JOB failed", "Check succeeded of labels did not pass"]
    assert heard[1].severity == dg.AssetCheckSeverity.ERROR
