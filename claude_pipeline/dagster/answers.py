"""Collecting the answers of a job that has ended: where they go, what is said of them, and the checks."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

import claude_pipeline as cp
from claude_pipeline.dagster.metadata import JOB_ID, answers_metadata
from claude_pipeline.dagster.resource import ClaudeResource

EVERY_ROW_ONCE, SUCCEEDED = "every_row_once", "succeeded"


def check_specs(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Declare the checks of an answers asset."""
    return [
        dg.AssetCheckSpec(
            EVERY_ROW_ONCE,
            asset=key,
            blocking=True,
            description="Every row of the input is in the table once: asked, or with the reason why not.",
        ),
        dg.AssetCheckSpec(SUCCEEDED, asset=key, description="Enough of the rows that have a prompt are answered."),
    ]


@dataclass(frozen=True, slots=True)
class Collected:
    """What an answers asset yields; `value` holds the DataFrame for an IO manager, if there is one."""

    metadata: Mapping[str, Any]
    value: Mapping[str, Any]
    checks: Sequence[dg.AssetCheckResult]


@dataclass(frozen=True, slots=True)
class Answers:
    """How the answers of the jobs of one asset are collected."""

    key: dg.AssetKey
    batch_key: dg.AssetKey
    output_path: Path | None
    io_manager_key: str | None
    prefix: str
    min_succeeded: float

    def jobs(self, claude: ClaudeResource) -> list["cp.Status"]:
        """Return how the jobs of this asset stand, the one submitted last at the end."""
        name = self.key.to_user_string()
        return [status for status in cp.list_jobs(store=claude.store_path()) if status.name == name]

    def advance(self, context: dg.AssetExecutionContext, claude: ClaudeResource) -> "cp.Status":
        """Advance every open job of this asset, and return how the one submitted last stands.

        Raises:
            dagster.Failure: Nothing was submitted, or elsewhere.
            JobBlockedError: The job waits for its user.
        """
        jobs = self.jobs(claude)
        if not jobs:
            raise dg.Failure(self.nothing_submitted(context.instance, claude), allow_retries=False)
        for status in jobs:
            if status.state in {"planning", "in_progress", "canceling"}:
                self._advance(context, claude, status, is_last=status is jobs[-1])
        latest = self.jobs(claude)[-1]
        if latest.state == "blocked":
            mended = f"Once mended: {claude.resume_command(latest.job_id)}"
            raise cp.JobBlockedError(latest.job_id, reason=f"{latest.reason} {mended}")
        return latest

    def _advance(
        self, context: dg.AssetExecutionContext, claude: ClaudeResource, status: "cp.Status", *, is_last: bool
    ) -> None:
        try:
            claude.open_job(status.job_id).advance()
        except cp.PipelineError as error:  # the trouble of an older job keeps nobody from the answers of the last
            if is_last:
                raise
            context.log.warning(str(error))

    def nothing_submitted(self, instance: dg.DagsterInstance, claude: ClaudeResource) -> str:
        """Say what to do when the store has no job of this asset."""
        event = instance.get_latest_materialization_event(self.batch_key)
        batch = self.batch_key.to_user_string()
        if event is None or event.asset_materialization is None or JOB_ID not in event.asset_materialization.metadata:
            return f"Nothing was submitted yet. Materialize {batch} first."
        job_id = event.asset_materialization.metadata[JOB_ID].value
        return (
            f"{job_id}, which {batch} submitted, is not in the store {claude.store_path()} of {socket.gethostname()}. "
            "Run this where that store is, or point ClaudeResource(store=…) to it."
        )

    def collect(self, status: "cp.Status", claude: ClaudeResource) -> Collected:
        """Write the answers of a job that has ended, and read back what is said of them."""
        path = self.output_path or claude.answers_path(self.key.to_user_string())
        if self.output_path is None:
            path.parent.mkdir(exist_ok=True)
        cp.open_job(status.job_id, store=claude.store_path()).write(path)
        with pq.ParquetFile(path) as file:
            metadata = answers_metadata(status, path, file, self.prefix) | claude.describe()
            checks = [self._check_rows(status, file), self._check_succeeded(status)]
        if self.io_manager_key is None:
            return Collected(metadata, {}, checks)
        del metadata["dagster/uri"]  # the IO manager says where the asset is
        return Collected(metadata, {"value": _read_frame(path)}, checks)

    def _check_rows(self, status: "cp.Status", file: pq.ParquetFile) -> dg.AssetCheckResult:
        rows = file.metadata.num_rows
        return dg.AssetCheckResult(
            asset_key=self.key,
            check_name=EVERY_ROW_ONCE,
            passed=rows == status.rows,
            metadata={"rows": rows, "input rows": status.rows},
        )

    def _check_succeeded(self, status: "cp.Status") -> dg.AssetCheckResult:
        asked = status.rows - status.skipped
        answered = asked - (status.unanswered or 0)
        share = answered / asked if asked else 1.0
        return dg.AssetCheckResult(
            asset_key=self.key,
            check_name=SUCCEEDED,
            passed=share >= self.min_succeeded,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{answered:,} of {asked:,} rows with a prompt are answered.",
            metadata={"answered": answered, "unanswered": asked - answered, "share": share},
        )


def _read_frame(path: Path) -> Any:  # noqa: ANN401  a DataFrame; pandas is loaded for an IO manager alone
    with pq.ParquetFile(path) as file:
        return file.read().to_pandas()
