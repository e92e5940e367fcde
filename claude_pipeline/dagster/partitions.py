"""Partitions: which rows of a table are a partition's own, and what its job is called."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

import claude_pipeline as cp
from claude_pipeline.tables import Table, open_table

_SHOWN = 3


def job_name(key: dg.AssetKey, partition: str | None) -> str:
    """Name the jobs of an asset, or of one of its partitions."""
    return key.to_user_string() if partition is None else f"{key.to_user_string()}[{partition}]"


def partition_of(key: dg.AssetKey, name: str | None) -> str | None:
    """Return the partition whose job has this name; None if it is no partition's of this asset."""
    before = f"{key.to_user_string()}["
    return name[len(before) : -1] if name and name.startswith(before) and name.endswith("]") else None


def partition_file(partition: str) -> str:
    """Name the file of a partition."""
    return f"{quote(partition, safe=' ')}.parquet"


def check_partitions(partitions_def: Any, *, column: str | None, is_source: bool) -> None:  # noqa: ANN401  generic
    """Make sure that a partition is not the whole table, which every partition would send and pay for.

    Raises:
        InputError: Nothing says which rows are a partition's, or there are no partitions.
    """
    if partitions_def is None:
        if column is not None:
            raise cp.InputError(f"partition_column is {column!r}, but there are no partitions. Give partitions_def=.")
        return
    if is_source and column is None:
        raise cp.InputError(
            "A partitioned source= needs partition_column=, the column that says which partition a row belongs to. "
            "Without it every partition would send the whole table, and pay for it."
        )
    if column is not None and isinstance(partitions_def, dg.MultiPartitionsDefinition):
        raise cp.InputError(
            "partition_column= takes partitions of one dimension. Give upstream= an asset with the same partitions."
        )


@dataclass(frozen=True, slots=True)
class Slices:
    """A table of several partitions, by a column.

    Attributes:
        column: What says which partition a row belongs to: a date or a time within the partition's window, or the
            partition's key itself.
    """

    table: Any
    column: str
    partitions_def: Any

    def of(self, partition: str) -> Table:
        """Return the rows of one partition.

        Raises:
            InputError: There is no such column, or no row of it belongs to the partition.
        """
        table = open_table(self.table)
        if self.column not in table.schema.names:
            raise cp.MissingColumnError(self.column, source=table.label, columns=table.schema.names)
        keep = self._chooser(partition, table.schema.field(self.column).type)
        return replace(table, batches=self._filter(table, keep, partition), verbatim=None)

    def _filter(self, table: Table, keep: Any, partition: str) -> Iterator[pa.RecordBatch]:  # noqa: ANN401  a function
        seen: dict[object, None] = {}
        found = False
        for batch in table.batches:
            column = batch.column(self.column)
            rows = batch.filter(keep(column))
            found = found or rows.num_rows > 0
            if not found and len(seen) < _SHOWN:
                seen.update(dict.fromkeys(pc.unique(column).slice(0, _SHOWN).to_pylist()))
            yield rows
        if not found:
            examples = ", ".join(str(value) for value in [*seen][:_SHOWN])
            raise cp.InputError(
                f"No row of {table.label} is of partition {partition!r}: column {self.column!r} has {examples} …"
            )

    def _chooser(self, partition: str, kind: pa.DataType) -> Any:  # noqa: ANN401  a function of a column
        is_time = pa.types.is_date(kind) or pa.types.is_timestamp(kind)
        if is_time and isinstance(self.partitions_def, dg.TimeWindowPartitionsDefinition):
            return partial(_within, window=self.partitions_def.time_window_for_partition_key(partition))
        return partial(_equals, text=partition)


def _within(column: pa.Array, *, window: dg.TimeWindow) -> pa.Array:
    """Tell which times are in a window; those without a time zone are the clock's on the wall of the partition."""
    zone = getattr(column.type, "tz", None)
    moments = column.cast(pa.timestamp("us", zone))
    start, end = (_moment(bound, zone) for bound in (window.start, window.end))
    return pc.and_(pc.greater_equal(moments, start), pc.less(moments, end))


def _moment(bound: Any, zone: str | None) -> pa.Scalar:  # noqa: ANN401  a datetime
    if zone is None:
        return pa.scalar(bound.replace(tzinfo=None), pa.timestamp("us"))
    return pa.scalar(bound.astimezone(ZoneInfo("UTC")), pa.timestamp("us", zone))


def _equals(column: pa.Array, *, text: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return pc.equal(column.cast(pa.large_string()), pa.scalar(text, pa.large_string()))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an IO manager loaded of an upstream asset for a run of one partition or several."""

    value: Any
    name: str

    def of(self, partition: str, *, partitions: Sequence[str]) -> Any:  # noqa: ANN401  what submit takes
        """Return the table of one partition.

        Raises:
            InputError: It cannot be told from the others'.
        """
        if isinstance(self.value, Mapping):
            if partition in self.value:
                return self.value[partition]
            raise cp.InputError(
                f"{self.name} has no value for partition {partition!r}, but for {', '.join(map(str, self.value))}. "
                "Give it the same partitions, or partition_column=."
            )
        if len(partitions) > 1:
            raise cp.InputError(
                f"The IO manager of {self.name} gives {len(partitions)} partitions as one table. "
                "Give partition_column=, or leave backfill_policy= out, so that each partition has its own run."
            )
        return self.value
