"""Sensing: a tick only polls, and requests runs when there is something to collect or to send."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from time import time
from typing import Any

import dagster as dg
import msgspec

import claude_pipeline as cp
from claude_pipeline.dagster.answers import OPEN, Answers, latest_materialization
from claude_pipeline.dagster.deadlines import warnings_of
from claude_pipeline.dagster.metadata import CHANGES, JOB_ID
from claude_pipeline.dagster.partitions import partition_of
from claude_pipeline.dagster.resource import ClaudeResource

FAILED_RUNS = 3
ASSET = "claude/asset"
_CALL_SECONDS = (2.5, 5.0, 10.0)  # a proxy may end a tick after 15 s, and Dagster does after 60 s
_MOST_RUNS = 10
_MOST_WORDS = 5
_LOST_SECONDS = 900.0
_RUNNING = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class _SharedSensor(dg.AutomationConditionSensorDefinition):
    """The one of a code location: a component would make a copy of it, and two of a name do not load."""

    def with_attributes(self, **_attributes: Any) -> "_SharedSensor":  # noqa: ANN401  what a component notes on it
        return self


automation_sensor = _SharedSensor(
    "claude_automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs assets with an automation condition, such as those downstream of answers.",
)
"""Runs assets with an automation condition; every `build_batch_defs` brings it along, one for a code location."""


class Cursor(msgspec.Struct, omit_defaults=True):
    """What a sensor remembers from tick to tick; without it a tick only takes longer, and repeats itself.

    Attributes:
        observed: The tenths that were observed of each open job.
        warned: The open jobs whose time was warned of.
        landed: For each partition, or for "", what of its last job is known to be materialized.
        failures: How often in a row the API could not be asked.
    """

    observed: dict[str, int] = {}
    warned: list[str] = []
    landed: dict[str, str] = {}
    failures: int = 0

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """Read a cursor; one that is none is as good as a new one."""
        try:
            return msgspec.json.decode(text or "{}", type=cls)
        except msgspec.DecodeError:
            return cls()

    def write(self, statuses: Sequence["cp.Status"]) -> str:
        """Write what is still of use."""
        open_jobs = {status.job_id for status in statuses if status.state in OPEN}
        self.observed = {job_id: tenth for job_id, tenth in self.observed.items() if job_id in open_jobs}
        self.warned = [job_id for job_id in self.warned if job_id in open_jobs]
        return msgspec.json.encode(self).decode()


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
        cursor = Cursor.read(context.cursor)
        try:
            jobs = _look(answers, claude, cursor, polled_within=minimum_interval_seconds / 2)
        except cp.PipelineError as error:
            return dg.SkipReason(str(error))
        if not jobs:
            return dg.SkipReason(answers.nothing_submitted(context.instance, claude, None))
        return _Tick(context, answers, claude, jobs, cursor).result()

    return batch_sensor


def _look(answers: Answers, claude: ClaudeResource, cursor: Cursor, *, polled_within: float) -> list["cp.Status"]:
    """Return how the asset's jobs stand: the open ones as a poll reports them, by whomever it was made."""
    jobs = answers.all_jobs(claude)
    if not any(status.state in OPEN for status in jobs):
        return jobs
    seconds = _CALL_SECONDS[min(cursor.failures, len(_CALL_SECONDS) - 1)]
    with claude.client().with_options(timeout=seconds) as client:
        polled = cp.poll(
            store=claude.store_path(), ledger=claude.ledger_url, client=client, unless_polled_within=polled_within
        )
    is_failure = any("could not be reached" in (status.reason or "") for status in polled)
    cursor.failures = cursor.failures + 1 if is_failure else 0
    by_id = {status.job_id: status for status in polled}
    return [by_id.get(status.job_id, status) for status in answers.all_jobs(claude)]


class _Tick:
    """What one look at the jobs of an asset leads to.

    The last job of a partition is the one whose answers the asset holds; without partitions, the last of all.
    """

    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        answers: Answers,
        claude: ClaudeResource,
        jobs: Sequence["cp.Status"],
        cursor: Cursor,
    ) -> None:
        self._context, self._answers, self._claude = context, answers, claude
        self._jobs, self._cursor = jobs, cursor
        self._last = {self._partition(status): status for status in jobs}
        self._now = time()

    def result(self) -> dg.SensorResult:
        """Request runs for the jobs that have something to do; else say how the jobs stand."""
        words, requests = list[str](), list[dg.RunRequest]()
        for status in self._jobs:
            if not self._is_due(status):
                words += [self._words(status)] if self._is_told(status) else []
            elif hindrance := self._hindrance(status):
                words.append(hindrance)
            elif self._deserves_a_run(status, requests):
                requests.append(self._request(status))
            else:
                words.append(self._words(status))
        events = [*self._observations()]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(self._joined(words)),
            asset_events=events,
            cursor=self._cursor.write(self._jobs),
        )

    def _partition(self, status: "cp.Status") -> str | None:
        return partition_of(self._answers.key, status.name)

    def _is_last(self, status: "cp.Status") -> bool:
        return self._last[self._partition(status)] is status

    def _is_due(self, status: "cp.Status") -> bool:
        if status.state == "ended":
            return self._is_last(status) and not self._is_materialized(status)
        return status.is_due

    def _is_materialized(self, status: "cp.Status") -> bool:
        partition = self._partition(status)
        token = f"{status.job_id}:{status.changes}:{status.submitted_at}"
        if self._cursor.landed.get(partition or "") == token:
            return True
        materialization = latest_materialization(self._context.instance, self._answers.key, partition)
        metadata = materialization.metadata if materialization else {}
        said = {key: metadata[key].value for key in (JOB_ID, CHANGES) if key in metadata}
        if said != {JOB_ID: status.job_id, CHANGES: str(status.changes)}:
            return False
        self._cursor.landed[partition or ""] = token
        return True

    def _hindrance(self, status: "cp.Status") -> str | None:
        """Say why no run is requested although there is something to do."""
        if status.job_id in self._under_way:
            return f"A run for {status.job_id} is under way."
        partition = self._partition(status)
        if partition is not None and partition not in self._partitions:
            return f"{partition!r} is no partition any more, so the answers of {status.job_id} stay in the store."
        runs = self._instance.get_runs(dg.RunsFilter(tags=self._tags(status)), limit=FAILED_RUNS)
        if len(runs) == FAILED_RUNS and not any(run.is_success for run in runs):
            key = self._answers.key.to_user_string()
            return (
                f"{FAILED_RUNS} runs for {status.job_id} failed in a row. Mend what they say, then materialize {key}."
            )
        return None

    @property
    def _instance(self) -> dg.DagsterInstance:
        return self._context.instance

    @cached_property
    def _partitions(self) -> set[str]:
        return {*self._answers.partitions_def.get_partition_keys(dynamic_partitions_store=self._instance)}

    @cached_property
    def _under_way(self) -> set[str]:
        """Name the jobs that a run looks after: one that waits its turn, or has not been lost with its machine."""
        tags = {ASSET: self._answers.key.to_user_string()}
        queued = dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.QUEUED])
        running = self._instance.get_run_records(dg.RunsFilter(tags=tags, statuses=_RUNNING))
        alive = [r.dagster_run for r in running if self._now - r.update_timestamp.timestamp() < _LOST_SECONDS]
        return {run.tags[JOB_ID] for run in [*self._instance.get_runs(queued), *alive]}

    def _deserves_a_run(self, status: "cp.Status", requests: Sequence[dg.RunRequest]) -> bool:
        """Give each partition its own run; without partitions, and for what is only to be sent, any run will do."""
        if self._answers.partitions_def is None:
            return not requests
        if status.state != "ended" and not status.batches:
            return not requests and not self._under_way
        return len(requests) < _MOST_RUNS

    def _request(self, status: "cp.Status") -> dg.RunRequest:
        tags = self._tags(status)
        tried = self._instance.get_runs_count(dg.RunsFilter(tags=tags))
        again = f":{tried}" if tried else ""
        run_key = f"{status.job_id}:{status.changes}{again}"
        return dg.RunRequest(run_key=run_key, partition_key=self._partition(status), tags=tags)

    def _tags(self, status: "cp.Status") -> dict[str, str]:
        """Tell the runs for one state of a job from others'; what changes it starts the count of failures anew."""
        key = self._answers.key.to_user_string()
        return {ASSET: key, JOB_ID: status.job_id, CHANGES: str(status.changes)}

    def _is_told(self, status: "cp.Status") -> bool:
        """Tell whether there is more to say than that an asset is as it should be."""
        return status.state != "ended" or (status is self._jobs[-1])

    def _words(self, status: "cp.Status") -> str:
        if status.state == "ended":
            then = "are to be" if self._is_due(status) else "are"
            return f"{status.job_id} has ended, and its answers {then} materialized."
        reason = " ".join(["", *filter(None, [status.reason]), *warnings_of(status, now=self._now)])
        if status.state == "blocked":
            return f"{status.job_id} is blocked:{reason} Once mended: {self._claude.resume_command(status.job_id)}"
        return f"{status.job_id} is {status.state.replace('_', ' ')}: {_percent(status)} %.{reason}"

    def _joined(self, words: Sequence[str]) -> str:
        more = [f"And {len(words) - _MOST_WORDS:,} more jobs."] if len(words) > _MOST_WORDS else []
        return " ".join([*words[:_MOST_WORDS], *more])

    def _observations(self) -> Iterator[dg.AssetObservation]:
        """Observe each further tenth, not each tick: a day has thousands; and once that time runs out."""
        for status in self._jobs:
            if status.state not in OPEN:
                continue
            tenth, warnings = _percent(status) // 10, [*warnings_of(status, now=self._now)]
            is_new = bool(warnings) and status.job_id not in self._cursor.warned
            if is_new:
                self._cursor.warned.append(status.job_id)
                self._context.log.warning(" ".join(warnings))
            if is_new or tenth > self._cursor.observed.get(status.job_id, 0):
                self._cursor.observed[status.job_id] = tenth
                warning = {"claude/warning": " ".join(warnings)} if warnings else {}
                metadata = _progress(status) | warning
                partition = self._partition(status)
                yield dg.AssetObservation(self._answers.batch_key, partition=partition, metadata=metadata)


def _percent(status: "cp.Status") -> int:
    return 100 * status.counts.finished // status.requests if status.requests else 100


def _progress(status: "cp.Status") -> dict[str, Any]:
    counts = status.counts
    return {
        JOB_ID: status.job_id,
        "claude/percent": _percent(status),
        "claude/succeeded": counts.succeeded,
        "claude/processing": counts.processing,
        "claude/waiting": counts.waiting,
    }
