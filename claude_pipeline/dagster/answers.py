"""Collecting the answers of a job that has ended: where they go, what is said of them, and the checks."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

import claude_pipeline as cp
from claude_pipeline.dagster.checks import Checker
from claude_pipeline.dagster.metadata import JOB_ID, Page
from claude_pipeline.dagster.partitions import job_name, partition_file, partition_of
from claude_pipeline.dagster.resource import ClaudeResource
from claude_pipeline.dagster.tally import count
from claude_pipeline.frames import arrow_to_frame
from claude_pipeline.restoring import restore

OPEN = frozenset({"planning", "in_progress", "canceling"})


@dataclass(frozen=True, slots=True)
class Collected:
    """What an answers asset yields; `value` holds the DataFrame for an IO manager, if there is one."""

    metadata: Mapping[str, Any]
    value: Mapping[str, Any]
    checks: Sequence[dg.AssetCheckResult]


@dataclass(frozen=True, slots=True)
class Answers:
    """How the answers of the jobs of one asset are collected.

    Attributes:
        upstream: The asset that the input comes from, if it is one.
        output_path: The file of the answers, or the folder of the partitions' files; else they are in the store.
    """

    key: dg.AssetKey
    batch_key: dg.AssetKey
    upstream: dg.AssetKey | None
    partitions_def: Any
    output_path: Path | None
    io_manager_key: str | None
    checker: Checker

    def jobs(self, claude: ClaudeResource, partition: str | None = None) -> list["cp.Status"]:
        """Return how the jobs of this asset stand, or of one of its partitions, the last one submitted at the end."""
        name = job_name(self.key, partition)
        return [
            status
            for status in cp.list_jobs(store=claude.store_path(), ledger=claude.ledger_url)
            if status.name == name
        ]

    def all_jobs(self, claude: ClaudeResource) -> list["cp.Status"]:
        """Return how the jobs of all partitions stand, if there are partitions."""
        if self.partitions_def is None:
            return self.jobs(claude)
        jobs = cp.list_jobs(store=claude.store_path(), ledger=claude.ledger_url)
        return [status for status in jobs if partition_of(self.key, status.name) is not None]

    def advance(self, context: dg.AssetExecutionContext, claude: ClaudeResource, partition: str | None) -> "cp.Status":
        """Advance every open job of this asset, and return how the one submitted last for the partition stands.

        Raises:
            dagster.Failure: Nothing was submitted, or elsewhere.
            JobBlockedError: The job waits for its user.
        """
        jobs = self.jobs(claude, partition)
        if not jobs:
            raise dg.Failure(self.nothing_submitted(context.instance, claude, partition), allow_retries=False)
        for status in jobs:
            if status.state in OPEN:
                self._advance(context, claude, status, is_last=status is jobs[-1])
        latest = self.jobs(claude, partition)[-1]
        if latest.state == "blocked":
            mended = f"Once mended: {claude.resume_command(latest.job_id)}"
            raise cp.JobBlockedError(latest.job_id, reason=f"{latest.reason} {mended}")
        return latest

    def _advance(
        self, context: dg.AssetExecutionContext, claude: ClaudeResource, status: "cp.Status", *, is_last: bool
    ) -> None:
        try:
            with claude.open_job(status.job_id) as job:
                job.advance()
        except cp.PipelineError as error:  # the trouble of an older job keeps nobody from the answers of the last
            if is_last:
                raise
            context.log.warning(str(error))

    def advance_others(self, context: dg.AssetExecutionContext, claude: ClaudeResource) -> None:
        """Do what is due for other partitions: those that wait for room share the queue."""
        if self.partitions_def is None:
            return
        if not any(status.state in OPEN and status.is_due for status in self.all_jobs(claude)):
            return
        try:
            with claude.client() as client:
                cp.advance(store=claude.store_path(), ledger=claude.ledger_url, client=client)
        except cp.PipelineError as error:  # the trouble of another partition is its own run's
            context.log.warning(str(error))

    def nothing_submitted(self, instance: dg.DagsterInstance, claude: ClaudeResource, partition: str | None) -> str:
        """Say what to do when the store has no job of this asset."""
        materialization = latest_materialization(instance, self.batch_key, partition)
        batch = self.batch_key.to_user_string()
        if materialization is None or JOB_ID not in materialization.metadata:
            of_it = "" if partition is None else f" for {partition}"
            return f"Nothing was submitted{of_it} yet. Materialize {batch} first."
        job_id = materialization.metadata[JOB_ID].value
        return (
            f"{job_id}, which {batch} submitted, is not in the store {claude.store_path()} of {socket.gethostname()}. "
            "Run this where that store is, or point ClaudeResource(store=…) to it."
        )

    def not_ended(self, status: "cp.Status") -> str:
        """Say when a job was sent, how far it is, and who goes on."""
        submitted = datetime.fromtimestamp(status.submitted_at, UTC)
        finished, requests = status.counts.finished, status.requests
        reason = f" {status.reason}" if status.reason else ""
        return (
            f"{status.job_id} was submitted {submitted:%Y-%m-%d %H:%M} UTC, and {finished:,} of {requests:,} requests "
            f"have come to a result.{reason} The sensor materializes {self.key.to_user_string()} when all have."
        )

    def collect(self, status: "cp.Status", claude: ClaudeResource, partition: str | None) -> Collected:
        """Write the answers of a job that has ended, and read back what is said of them."""
        path = self._path(claude, partition)
        job = cp.open_job(status.job_id, store=claude.store_path(), ledger=claude.ledger_url)
        job.write(path)
        with pq.ParquetFile(path) as file:
            tally = count(file, self.checker.prefix)
            page = Page(status, path, file, tally, self.checker.prefix, job.asked_columns, self.upstream)
            metadata = page.metadata() | claude.describe()
            checks = [*self.checker.evaluate(status, file, tally)]
        if self.io_manager_key is None:
            return Collected(metadata, {}, checks)
        del metadata["dagster/uri"]  # the IO manager says where the asset is
        return Collected(metadata, {"value": _read_frame(path)}, checks)

    def _path(self, claude: ClaudeResource, partition: str | None) -> Path:
        if self.output_path is None:
            path = claude.answers_path(self.key.to_user_string(), partition)
            path.parent.mkdir(parents=True, exist_ok=True)
            return path
        return self.output_path if partition is None else self.output_path / partition_file(partition)


def latest_materialization(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None
) -> dg.AssetMaterialization | None:
    """Return the last materialization of an asset, or of one of its partitions."""
    chosen = dg.AssetRecordsFilter(asset_key=key, asset_partitions=None if partition is None else [partition])
    records: Iterator[Any] = iter(instance.fetch_materializations(chosen, limit=1).records)
    return next((record.asset_materialization for record in records), None)


def _read_frame(path: Path) -> Any:  # noqa: ANN401  a DataFrame; pandas is loaded for an IO manager alone
    with pq.ParquetFile(path) as file:
        return arrow_to_frame(restore(file.read()))
