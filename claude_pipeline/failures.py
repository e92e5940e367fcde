"""The rows of a job that did not come to what was asked for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from claude_pipeline.arrays import Flags, bool_array
from claude_pipeline.choosing import Positions
from claude_pipeline.frames import arrow_to_frame
from claude_pipeline.outputs import output_batches, output_schema, write_rows
from claude_pipeline.parquets import open_parquet
from claude_pipeline.places import Place
from claude_pipeline.records import JobRecord
from claude_pipeline.restoring import restore
from claude_pipeline.settings import Settings
from claude_pipeline.store import Store

if TYPE_CHECKING:
    import pandas as pd

Which = Literal["failed", "truncated"]
_TOLD_BY = ("result_type", "error_type", "stop_reason")


@dataclass(frozen=True, slots=True)
class Picked:
    """Some rows of a job.

    Attributes:
        positions: Where they stand in the input, counted from 0.
        table: The rows with their answers, as `Job.to_arrow` returns them.
        prefix: What stands before the names of the columns that were added.
    """

    positions: Positions
    table: pa.Table
    prefix: str

    @property
    def errors(self) -> list[tuple[int, str, str]]:
        """Position, kind and message of what is the matter with each row."""
        named = (self.table[self.prefix + name].to_pylist() for name in ("error_type", "result_type", "error_message"))
        cells = zip(self.positions.tolist(), *named, strict=True)
        return [(row, error or result or "not sent", message or "") for row, error, result, message in cells]

    def write(self, path: str | os.PathLike[str]) -> Place:
        """Write the rows as Parquet or CSV, as `Job.write` does.

        Raises:
            OutputError: The suffix is unknown, or the place cannot be written.
        """
        return write_rows(path, self.table.schema, self.table.to_batches())


def pick(store: Store, job: JobRecord, which: Which) -> Picked:
    """Return the rows without an answer, or those whose answer was cut off at `max_tokens`."""
    schema, prefix = output_schema(store, job), Settings.of(job).prefix
    tell = _MARKS[which]
    found: list[pa.RecordBatch] = []
    positions: list[Positions] = []
    first = 0
    for batch in output_batches(store, job, schema):
        flags = tell(batch.select([prefix + name for name in _TOLD_BY]), job)
        positions.append(first + np.flatnonzero(flags))
        found.append(batch.filter(bool_array(flags)))
        first += batch.num_rows
    return Picked(np.concatenate(positions), pa.Table.from_batches(found, schema), prefix)


def _has_failed(told: pa.RecordBatch, job: JobRecord) -> Flags:
    """Tell which rows have no answer; before the end, which will get none as things stand."""
    result, error, _ = (column.to_pylist() for column in told.columns)
    without = ~_are(result, "succeeded") & ~_are(error, "missing_prompt")
    return without if job.state == "ended" else without & ~(_are(result, None) & _are(error, None))


def _is_truncated(told: pa.RecordBatch, _job: JobRecord) -> Flags:
    return _are(told.columns[2].to_pylist(), "max_tokens")


_MARKS: dict[Which, Callable[[pa.RecordBatch, JobRecord], Flags]] = {
    "failed": _has_failed,
    "truncated": _is_truncated,
}


def _are(cells: Sequence[str | None], value: str | None) -> Flags:
    return np.array([cell == value for cell in cells], dtype=bool)


def labels(store: Store, job: JobRecord) -> "pd.Index[Any]":
    """Return the index that `Job.to_pandas` gives its frame."""
    with open_parquet(store.input_path(job.job_id)) as file:
        described = (file.schema_arrow.pandas_metadata or {}).get("index_columns", [])
        table = file.read(columns=[name for name in described if isinstance(name, str)])
        if not table.num_columns:  # a range of labels; a table without columns forgets how many rows it has
            table = pa.table({"row": pa.nulls(file.metadata.num_rows)}).replace_schema_metadata(table.schema.metadata)
    return arrow_to_frame(restore(table)).index
