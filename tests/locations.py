"""A code location without daemon: a test materializes, lets the sensor tick, and runs what a tick requests."""

from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa

from claude_pipeline.dagster import ClaudeResource, build_batch_defs

LABELS, LABELS_BATCH = dg.AssetKey("labels"), dg.AssetKey("labels_batch")
REVIEWS = pa.table({"id": range(6), "text": [f"Review {number}. It goes on." for number in range(6)]})


def build_labels(**options):
    """Build the definitions that most tests do not vary: the asset `labels`, which answers six rows."""
    if not {"source", "upstream"} & options.keys():
        options["source"] = REVIEWS
    common = {"key": "labels", "template": "Label: {text}", "model": "claude-haiku-4-5", "max_tokens": 16}
    common |= {"minimum_interval_seconds": 0}  # each tick polls, however soon after another
    return build_batch_defs(**common | options)


def asset_of(value):
    """Define the asset `reviews`, whose value this is."""

    @dg.asset
    def reviews():
        return value

    return dg.Definitions(assets=[reviews])


@dg.asset(deps=["labels"], automation_condition=dg.AutomationCondition.eager())
def report():
    """Stand downstream of the answers."""


REPORT = dg.Definitions(assets=[report])


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to."""

    result: dg.ExecuteInProcessResult

    @property
    def success(self):
        return self.result.success

    @property
    def materialized(self):
        return [event.asset_key.to_user_string() for event in self.result.get_asset_materialization_events()]

    def metadata(self, key=LABELS):
        """Return the values of the metadata of the one materialization of an asset."""
        (event,) = [e for e in self.result.get_asset_materialization_events() if e.asset_key == key]
        return {name: value.value for name, value in event.materialization.metadata.items()}

    @property
    def checks(self):
        return {check.check_name: check for check in self.result.get_asset_check_evaluations()}

    @property
    def skipped(self):
        return [event.step_key for event in self.result.all_events if event.event_type_value == "STEP_SKIPPED"]

    @property
    def reason(self):
        """Return what the page of a failed run says first."""
        (failure,) = [e.step_failure_data for e in self.result.all_events if e.is_step_failure]
        return failure.user_failure_data.description


class Location:
    """Definitions with their instance; it remembers the sensor's cursor and run keys, as the daemon does."""

    def __init__(self, instance: dg.DagsterInstance, claude: ClaudeResource, *definitions: dg.Definitions) -> None:
        shared = dg.Definitions(resources={"claude": claude})
        self.instance, self.claude = instance, claude
        self.defs = dg.Definitions.merge(*definitions, shared)
        self._cursor: str | None = None
        self._run_keys: set[str | None] = set()

    def materialize(self, *keys: Any, **selection: Any) -> Run:
        """Materialize these assets by hand, or all."""
        job = self.defs.resolve_implicit_global_asset_job_def()
        if keys:
            selection["asset_selection"] = [dg.AssetKey.from_coercible(key) for key in keys]
        return Run(job.execute_in_process(instance=self.instance, raise_on_error=False, **selection))

    def tick(self, sensor: str = "labels_sensor") -> dg.SensorResult:
        """Let the sensor look once."""
        definition = self.defs.resolve_sensor_def(sensor)
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self._cursor, definitions=self.defs, resources={"claude": self.claude}
        )
        with context:
            data = definition.evaluate_tick(context)
        self._cursor = data.cursor or self._cursor
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        return data

    def run_requested(self, tick: Any) -> Run:
        """Run the one request of a tick."""
        (request,) = tick.run_requests
        return self.run(request)

    def run(self, request: Any) -> Run:
        """Run a request; a daemon ignores a run key that it has seen."""
        assert request.run_key not in self._run_keys
        self._run_keys.add(request.run_key)
        job = self.defs.resolve_job_def("labels_collect_job")
        chosen = {"partition_key": request.partition_key, "tags": request.tags}
        return Run(job.execute_in_process(instance=self.instance, raise_on_error=False, **chosen))

    def look(self) -> Run:
        """Tick, and run what was requested."""
        return self.run_requested(self.tick())
