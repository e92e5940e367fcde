"""Where the answers go: a file that appears whole, or a table in memory."""

import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from claude_pipeline.arrays import make_array
from claude_pipeline.errors import InputError, OutputError
from claude_pipeline.files import replacing
from claude_pipeline.joining import ANSWER_SCHEMA, join
from claude_pipeline.records import JobRecord
from claude_pipeline.store import Store, open_parquet

_ROW_GROUP_BYTES = 8_000_000


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...


class _ParquetWriter:
    """Gathers batches to row groups that readers like."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = pq.ParquetWriter(path, schema, compression="zstd")
        self._group: list[pa.RecordBatch] = []

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._group.append(batch)
        if sum(batch.nbytes for batch in self._group) > _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._group:
            self._file.write_table(pa.Table.from_batches(self._group))
            self._group.clear()


def _csv_writer(path: Path, schema: pa.Schema) -> _Writer:
    writer: _Writer = pyarrow.csv.CSVWriter(path, schema)
    return writer


_WRITERS: dict[str, Callable[[Path, pa.Schema], _Writer]] = {".parquet": _ParquetWriter, ".csv": _csv_writer}


def check_output(path: str | os.PathLike[str]) -> Path:
    """Make sure that answers can be written to `path` before money is spent on them.

    Raises:
        OutputError: The suffix is unknown, or the place cannot be written.
    """
    target = Path(path).expanduser().absolute()
    if target.suffix.lower() not in _WRITERS:
        raise OutputError(f"Cannot tell the format of {path}: its suffix must be one of {', '.join(_WRITERS)}.")
    if target.is_dir():
        raise OutputError(f"{path} is a folder. Name a file in it, such as {Path(path) / 'answers.parquet'}.")
    if not target.parent.is_dir():
        raise OutputError(f"There is no folder {target.parent} to write {target.name} to. Create it first.")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"The folder {target.parent} cannot be written. Choose another place for {target.name}.")
    return target


def check_columns(schema: pa.Schema, *, prefix: str, source: str) -> None:
    """Make sure that our columns do not hide the user's.

    Raises:
        InputError: A column has the name of one of ours.
    """
    clashes = [name for name in output_names(prefix) if name in schema.names]
    if clashes:
        raise InputError(
            f"{source} has a column {clashes[0]!r}, which is one that answers come in. "
            "Rename it, or pass prefix= to put something before the names of ours, such as prefix='claude_'."
        )


def output_names(prefix: str) -> list[str]:
    """List the names of the columns that are added."""
    return [prefix + name for name in ANSWER_SCHEMA.names]


def output_schema(store: Store, job: JobRecord, *, prefix: str) -> pa.Schema:
    """Return the schema of a job's answers: the input's columns, then ours."""
    with open_parquet(store.input_path(job.job_id)) as file:
        source = file.schema_arrow
    ours = [field.with_name(name) for field, name in zip(ANSWER_SCHEMA, output_names(prefix), strict=True)]
    return pa.schema([*source, *ours], metadata=source.metadata)


def output_batches(store: Store, job: JobRecord, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield a job's rows in input order, with their answers."""
    for rows, answers in join(store, job):
        yield pa.record_batch([*rows.columns, *answers.columns], schema=schema)


def write(store: Store, job: JobRecord, path: str | os.PathLike[str], *, prefix: str) -> Path:
    """Write a job's rows as Parquet or CSV, by suffix; the file appears whole or not at all.

    Raises:
        OutputError: The suffix is unknown, or the place cannot be written.
    """
    target = check_output(path)
    schema = output_schema(store, job, prefix=prefix)
    flat = _flat_schema(schema) if target.suffix.lower() == ".csv" else schema
    with replacing(target) as temporary:
        writer = _WRITERS[target.suffix.lower()](temporary, flat)
        try:
            for batch in output_batches(store, job, schema):
                writer.write_batch(batch if flat is schema else _flatten(batch, flat))
        finally:
            writer.close()
    return target


def _has_no_cell(field: pa.Field) -> bool:
    kind = field.type
    flat = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary
    return pa.types.is_nested(kind) or any(is_kind(kind) for is_kind in flat)


def _flat_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(pa.large_string()) if _has_no_cell(field) else field for field in schema])


def _flatten(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Write lists and structs as JSON and bytes as base64, since a CSV has no cells for them."""
    columns = [
        make_array([_to_cell(value) for value in column.to_pylist()], pa.large_string())
        if _has_no_cell(field)
        else column
        for column, field in zip(batch.columns, batch.schema, strict=True)
    ]
    return pa.record_batch(columns, schema=schema)


def _to_cell(value: object) -> str | None:
    if value is None or isinstance(value, bytes):
        return None if value is None else _plain(value)
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> str:
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)
