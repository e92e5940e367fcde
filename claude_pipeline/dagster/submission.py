"""Submitting: what a run of the submission asset sends, a job for each of its partitions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

import claude_pipeline as cp
from claude_pipeline.dagster.metadata import submission_metadata
from claude_pipeline.dagster.partitions import Loaded, Slices, job_name
from claude_pipeline.dagster.resource import ClaudeResource
from claude_pipeline.dagster.streaming import stream_rows


@contextmanager
def in_words() -> Iterator[None]:
    """Show an error of ours as one sentence; only what the API does may pass by itself."""
    try:
        yield
    except cp.PipelineError as error:
        raise dg.Failure(str(error), allow_retries=isinstance(error, cp.ApiError)) from error


@dataclass(frozen=True, slots=True)
class Submission:
    """How the tables of one asset are submitted.

    Attributes:
        key: The key of the answers.
        upstream: The asset whose value is the table, if it is one.
        request: What `claude_pipeline.submit` takes.
        streams: Rows of a table that is streamed instead, at most; None if none is.
    """

    key: dg.AssetKey
    upstream: dg.AssetKey | None
    partitions_def: Any
    partition_column: str | None
    request: Mapping[str, Any]
    streams: int | None = None

    def submit(
        self,
        context: dg.AssetExecutionContext,
        claude: ClaudeResource,
        table: Any,  # noqa: ANN401  what an IO manager loads, or submit takes
    ) -> dg.MaterializeResult[None]:
        """Submit a table, or each partition of it that is run.

        Raises:
            dagster.Failure: It cannot be submitted; says why.
        """
        with in_words():
            claude.keep_budget()
            if self.partitions_def is None:
                return dg.MaterializeResult(metadata=self._send(context, claude, table, None))
            self._check_upstream(context)
            for partition in context.partition_keys:
                metadata = self._send(context, claude, self._slice(context, table, partition), partition)
                context.add_asset_metadata(metadata, partition_key=partition)
        return dg.MaterializeResult()

    def _send(
        self,
        context: dg.AssetExecutionContext,
        claude: ClaudeResource,
        table: Any,  # noqa: ANN401  as above
        partition: str | None,
    ) -> dict[str, Any]:
        store, name = claude.store_path(), job_name(self.key, partition)
        request: dict[str, Any] = {**claude.limits(), **self.request}
        if self.streams is not None:
            try:
                small = {**request, "max_rows": self.streams}
                streamed = stream_rows(context, claude, table, name=name, request=small)
            except cp.TooManyRowsError:
                context.log.info("More than %d rows: they go as batches.", self.streams)
            else:
                said = submission_metadata(streamed.job.status(), store)
                return said | streamed.metadata() | claude.describe()
        with claude.client() as client:
            job = cp.submit(table, name=name, store=store, ledger=claude.ledger_url, client=client, **request)
        context.log.info(repr(job))
        return submission_metadata(job.status(), store) | claude.describe()

    def _slice(self, context: dg.AssetExecutionContext, table: Any, partition: str) -> Any:  # noqa: ANN401  as above
        if self.upstream is not None and (self.partition_column is None or isinstance(table, Mapping)):
            return Loaded(table, self.upstream.to_user_string()).of(partition, partitions=context.partition_keys)
        return Slices(table, str(self.partition_column), self.partitions_def).of(partition)

    def _check_upstream(self, context: dg.AssetExecutionContext) -> None:
        """Make sure that the upstream asset has partitions, if nothing else says which rows are a partition's."""
        if self.upstream is None or self.partition_column is not None:
            return
        try:
            context.asset_partitions_def_for_input("table")
        except dg.DagsterInvariantViolationError:
            raise cp.InputError(
                f"{self.upstream.to_user_string()} has no partitions, so every partition would send all of it, and pay "
                "for it. Give partition_column=, the column that says which partition a row belongs to."
            ) from None
