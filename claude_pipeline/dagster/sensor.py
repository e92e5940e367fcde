"""Sensing: a tick only polls, and requests a run when there is something to collect or to send."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

import claude_pipeline as cp
from claude_pipeline.dagster.answers import Answers
from claude_pipeline.dagster.metadata import CHANGES, JOB_ID
from claude_pipeline.dagster.resource import ClaudeResource

FAILED_RUNS = 3
_OPEN = frozenset({"planning", "in_progress", "canceling"})
_CALL_SECONDS = 10.0  # Dagster ends a tick after 60 s

automation_sensor = dg.AutomationConditionSensorDefinition(
    "claude_automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs assets with an automation condition, such as those downstream of answers.",
)


def build_batch_sensor(answers: Answers, job: Any, *, minimum_interval_seconds: int) -> dg.SensorDefinition:  # noqa: ANN401
    """Build the sensor that materializes answers when their batches have ended."""

    @dg.sensor(
        name=f"{answers.key.to_python_identifier()}_sensor",
        job=job,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Polls the batches of {answers.key.to_user_string()}, and materializes it when they have ended.",
    )
    def batch_sensor(context: dg.SensorEvaluationContext, claude: ClaudeResource) -> dg.SensorResult | dg.SkipReason:
        try:
            jobs = _look(answers, claude)
        except cp.PipelineError as error:
            return dg.SkipReason(str(error))
        if not jobs:
            return dg.SkipReason(answers.nothing_submitted(context.instance, claude))
        return _Tick(context, answers, claude, jobs).result()

    return batch_sensor


def _look(answers: Answers, claude: ClaudeResource) -> list["cp.Status"]:
    """Return how the asset's jobs stand: the open ones as a poll reports them."""
    jobs = answers.jobs(claude)
    if not any(status.state in _OPEN for status in jobs):
        return jobs
    polled = {status.job_id: status for status in _poll(claude)}
    return [polled.get(status.job_id, status) for status in answers.jobs(claude)]


def _poll(claude: ClaudeResource) -> list["cp.Status"]:
    return cp.poll(store=claude.store_path(), client=claude.client().with_options(timeout=_CALL_SECONDS))


class _Tick:
    """What one look at the jobs of an asset leads to. The last job is the one whose answers the asset holds."""

    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        answers: Answers,
        claude: ClaudeResource,
        jobs: Sequence["cp.Status"],
    ) -> None:
        self._context, self._answers, self._claude = context, answers, claude
        self._jobs = jobs
        self._seen: dict[str, int] = json.loads(context.cursor or "{}")

    def result(self) -> dg.SensorResult:
        """Request one run, which advances every job, if a job has something to do; else say how they stand."""
        requests, words = list[dg.RunRequest](), list[str]()
        for status in self._jobs:
            if not self._is_due(status):
                words += [self._words(status)] if status.state != "ended" or status is self._jobs[-1] else []
                continue
            hindrance = self._hindrance(status)
            if hindrance:
                words.append(hindrance)
            elif not requests:
                requests.append(self._request(status))
        events = list(self._observations())
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(" ".join(words)),
            asset_events=events,
            cursor=json.dumps(self._seen),
        )

    def _is_due(self, status: "cp.Status") -> bool:
        if status.state == "ended":
            return status is self._jobs[-1] and not self._is_materialized(status)
        return status.is_due

    def _is_materialized(self, status: "cp.Status") -> bool:
        event = self._context.instance.get_latest_materialization_event(self._answers.key)
        if event is None or event.asset_materialization is None:
            return False
        metadata = event.asset_materialization.metadata
        said = {key: metadata[key].value for key in (JOB_ID, CHANGES) if key in metadata}
        return said == {JOB_ID: status.job_id, CHANGES: status.changes}

    def _hindrance(self, status: "cp.Status") -> str | None:
        """Say why no run is requested although there is something to do."""
        runs = self._context.instance.get_runs(dg.RunsFilter(tags=_tags(status)), limit=FAILED_RUNS)
        if any(not run.is_finished for run in runs):
            return f"A run for {status.job_id} is under way."
        if len(runs) == FAILED_RUNS and not any(run.is_success for run in runs):
            key = self._answers.key.to_user_string()
            return (
                f"{FAILED_RUNS} runs for {status.job_id} failed in a row. Mend what they say, then materialize {key}."
            )
        return None

    def _request(self, status: "cp.Status") -> dg.RunRequest:
        tried = self._context.instance.get_runs_count(dg.RunsFilter(tags=_tags(status)))
        again = f":{tried}" if tried else ""
        return dg.RunRequest(run_key=f"{status.job_id}:{status.changes}{again}", tags=_tags(status))

    def _words(self, status: "cp.Status") -> str:
        if status.state == "ended":
            return f"{status.job_id} has ended, and its answers are materialized."
        reason = f" {status.reason}" if status.reason else ""
        if status.state == "blocked":
            return f"{status.job_id} is blocked:{reason} Once mended: {self._claude.resume_command(status.job_id)}"
        return f"{status.job_id} is {status.state.replace('_', ' ')}: {_percent(status)} %.{reason}"

    def _observations(self) -> Iterator[dg.AssetObservation]:
        """Observe each further tenth, not each tick: a day has thousands."""
        for status in self._jobs:
            tenth = _percent(status) // 10
            if status.state in _OPEN and tenth > self._seen.get(status.job_id, 0):
                self._seen[status.job_id] = tenth
                yield dg.AssetObservation(self._answers.batch_key, metadata=_progress(status))


def _tags(status: "cp.Status") -> dict[str, str]:
    """Tell the runs for one state of a job from others'; what changes it starts the count of failures anew."""
    return {JOB_ID: status.job_id, CHANGES: str(status.changes)}


def _percent(status: "cp.Status") -> int:
    return 100 * status.counts.finished // status.requests if status.requests else 100


def _progress(status: "cp.Status") -> Mapping[str, Any]:
    counts = status.counts
    return {
        JOB_ID: status.job_id,
        "claude/percent": _percent(status),
        "claude/succeeded": counts.succeeded,
        "claude/processing": counts.processing,
        "claude/waiting": counts.waiting,
    }
