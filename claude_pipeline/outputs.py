"""Where the answers go: a file that appears whole, or a table in memory."""

import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from claude_pipeline.arrays import give_back, make_array
from claude_pipeline.derived import PLAIN, AnswerOptions, Derived, mark_invalid
from claude_pipeline.errors import InputError, OutputError, PlaceError
from claude_pipeline.files import replacing
from claude_pipeline.folders import FIRST_PART, check_folder, write_folder
from claude_pipeline.joining import join
from claude_pipeline.parquets import open_parquet
from claude_pipeline.places import Place, RemotePath, is_url, remote_path
from claude_pipeline.prompts import RequestForm
from claude_pipeline.records import JobRecord
from claude_pipeline.settings import Settings
from claude_pipeline.store import Store
from claude_pipeline.walking import ANSWER_SCHEMA, LINE_SCHEMA

_ROW_GROUP_BYTES = 4_000_000
_PAGE_BYTES = 1 << 18
_SAMPLE_ROWS = 2_000


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...


class _ParquetWriter:
    """Gathers batches to row groups that readers like."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.touch()  # who fills a folder looks how large it has become
        self._path, self._schema = path, schema
        self._file: pq.ParquetWriter | None = None
        self._group: list[pa.RecordBatch] = []

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._group.append(batch)
        if sum(batch.nbytes for batch in self._group) > _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._file:
            self._file.close()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._group, self._schema)
        self._group.clear()
        if self._file is None:
            options = {"use_dictionary": _repeating(table[:_SAMPLE_ROWS]), "data_page_size": _PAGE_BYTES}
            self._file = pq.ParquetWriter(self._path, self._schema, compression="zstd", **options)
        if table.num_rows:
            self._file.write_table(table)
        give_back()


def _repeating(table: pa.Table) -> list[str] | bool:
    """Name the columns that are worth a dictionary; for prompts and answers it costs a third of all writing.

    With nested columns it is for all of them, as is usual: theirs are named leaf by leaf.
    """
    if any(pa.types.is_nested(field.type) for field in table.schema):
        return True
    return [name for name, column in zip(table.column_names, table.columns, strict=True) if _repeats(column)]


def _repeats(column: pa.ChunkedArray) -> bool:
    try:
        return int(pc.count_distinct(column).as_py()) * 2 <= len(column)
    except pa.ArrowNotImplementedError:  # a dictionary already, say
        return True


def _csv_writer(path: Path, schema: pa.Schema) -> _Writer:
    writer: _Writer = pyarrow.csv.CSVWriter(path, schema)
    return writer


_WRITERS: dict[str, Callable[[Path, pa.Schema], _Writer]] = {".parquet": _ParquetWriter, ".csv": _csv_writer}


def check_output(path: str | os.PathLike[str]) -> Place:
    """Make sure that answers can be written to `path` before money is spent on them.

    On an object store an upload is begun and given up, which nobody sees.

    Raises:
        OutputError: The suffix is unknown, or the place cannot be written.
    """
    target = _target(path)
    if isinstance(target, RemotePath):
        with _as_output():
            (target / FIRST_PART if _is_folder(path) else target).check_writable()
    return target


def _target(path: str | os.PathLike[str]) -> Place:
    """Tell what `path` names, and look whether it can be written as far as that shows."""
    with _as_output():
        target = remote_path(path) if is_url(path) else Path(path).expanduser().absolute()
        if _is_folder(path):
            check_folder(target)
            return target
    if target.suffix.lower() not in _WRITERS:
        raise OutputError(
            f"Cannot tell the format of {path}: its suffix must be one of {', '.join(_WRITERS)}, "
            "or a / at its end for a folder of Parquet files."
        )
    if isinstance(target, Path):
        _check_file(target, path)
    return target


def _check_file(target: Path, path: str | os.PathLike[str]) -> None:
    if target.is_dir():
        raise OutputError(f"{path} is a folder. Name a file in it, such as {Path(path) / 'answers.parquet'}.")
    if not target.parent.is_dir():
        raise OutputError(f"There is no folder {target.parent} to write {target.name} to. Create it first.")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"The folder {target.parent} cannot be written. Choose another place for {target.name}.")


@contextmanager
def _as_output() -> Iterator[None]:
    try:
        yield
    except PlaceError as error:
        raise OutputError(str(error)) from error


def _is_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder of files is meant: by a slash at the end, or because there is one."""
    text = os.fspath(path)
    return text.endswith(("/", os.sep)) or (
        not is_url(path) and Path(text).expanduser().is_dir() and Path(text).suffix.lower() not in _WRITERS
    )


def check_columns(
    schema: pa.Schema, form: RequestForm, *, prefix: str, source: str, answers: AnswerOptions = PLAIN
) -> None:
    """Make sure that our columns hide neither the user's nor each other.

    Raises:
        InputError: A column, or a property of the output schema, has the name of one of ours.
    """
    derived = [field.name for field in Derived(answers).fields]
    doubled = [name for place, name in enumerate(derived) if name in ANSWER_SCHEMA.names or name in derived[:place]]
    if doubled:
        raise InputError(
            f"output_schema has a property {doubled[0]!r}, which is the name of a column that answers come in. "
            "Rename the property."
        )
    clashes = [name for name in [*_added(form, prefix), *(prefix + name for name in derived)] if name in schema.names]
    if clashes:
        raise InputError(
            f"{source} has a column {clashes[0]!r}, which is one that answers come in. "
            "Rename it, or pass prefix= to put something before the names of ours, such as prefix='claude_'."
        )


def _added(form: RequestForm, prefix: str) -> dict[str, pa.Field]:
    """Name the columns that are added; each row's own model, where a column of that name says it, is not said twice."""
    names = {prefix + field.name: field for field in ANSWER_SCHEMA}
    if form.column_of("model") == f"{prefix}model":
        del names[f"{prefix}model"]
    return names


def output_schema(store: Store, job: JobRecord) -> pa.Schema:
    """Return the schema of a job's answers: the input's columns, then ours."""
    with open_parquet(store.input_path(job.job_id)) as file:
        source = file.schema_arrow
    settings = Settings.of(job)
    ours = [field.with_name(name) for name, field in _added(settings.form, settings.prefix).items()]
    derived = [field.with_name(settings.prefix + field.name) for field in Derived(settings.answers).fields]
    return pa.schema([*source, *ours, *derived], metadata=source.metadata)


def output_batches(store: Store, job: JobRecord, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield a job's rows in input order, with their answers."""
    settings = Settings.of(job)
    added = [field.name for field in _added(settings.form, settings.prefix).values()]
    derived = Derived(settings.answers)
    for rows, answers in join(store, job, schema=LINE_SCHEMA if derived.needs_lines else ANSWER_SCHEMA):
        arrays, errors = derived.derive(answers)
        known = mark_invalid(answers, errors).select(added)
        yield pa.record_batch([*rows.columns, *known.columns, *arrays], schema=schema)


def write(store: Store, job: JobRecord, path: str | os.PathLike[str]) -> Place:
    """Write a job's rows; see `write_rows`."""
    schema = output_schema(store, job)
    return write_rows(path, schema, output_batches(store, job, schema))


def write_rows(path: str | os.PathLike[str], schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Place:
    """Write rows as Parquet or CSV, by suffix, or as a folder of Parquet files; it appears whole or not at all.

    Raises:
        OutputError: The suffix is unknown, or the place cannot be written.
    """
    target = _target(path)
    with _as_output():
        if _is_folder(path):
            write_folder(target, batches, open_part=partial(_ParquetWriter, schema=schema))
            return target
        flat = _flat_schema(schema) if target.suffix.lower() == ".csv" else schema
        with replacing(target) as temporary:
            writer = _WRITERS[target.suffix.lower()](temporary, flat)
            try:
                for batch in batches:
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
