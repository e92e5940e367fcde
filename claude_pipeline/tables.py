"""A source becomes a table: a schema and a stream of record batches, opened and checked, not yet read."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from glob import glob
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq

from claude_pipeline import csvs
from claude_pipeline.errors import InputError, PlaceError
from claude_pipeline.frames import frame_to_arrow
from claude_pipeline.places import Place, RemotePath, is_url, remote_path

if TYPE_CHECKING:
    import pandas as pd

    Schema: TypeAlias = Any


class ArrowStream(Protocol):
    """A table with the Arrow PyCapsule interface: pandas, pyarrow, Polars, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the table as a capsule."""


StrPath: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = StrPath | Sequence[StrPath] | ArrowStream
"""A path, a glob or a list of Parquet or CSV files, a DataFrame, or anything with the Arrow PyCapsule interface."""

_PARQUET_SUFFIXES = (".parquet", ".pq")
_SUFFIXES = (*_PARQUET_SUFFIXES, ".csv")
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Table:
    """An input that has been opened and checked.

    Attributes:
        label: What messages call it.
        batches: Its rows, once, the columns of each batch in any order; what goes wrong in reading them
            is an InputError.
        verbatim: The one Parquet file that holds exactly this.
        reader: The stream behind the batches, if it may hold a query or a connection.
    """

    label: str
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    verbatim: Place | None = None
    reader: pa.RecordBatchReader | None = None

    def close(self) -> None:
        """Give back what the input holds: an abandoned query would block its connection."""
        if self.reader is not None:
            self.reader.close()


def open_table(source: Source | Table) -> Table:
    """Open what a user may pass as input; what is open already stays as it is.

    Raises:
        InputError: There is no such file, it cannot be read, files differ, or a column's name will not do.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, str | os.PathLike):
        return _open_files(_matches(source))
    if _is_dataframe(source):
        return _open_dataframe(source)
    if hasattr(source, "__arrow_c_stream__"):
        return _open_stream(source)
    if isinstance(source, Sequence) and all(isinstance(path, str | os.PathLike) for path in source):
        return _open_files([path for pattern in source for path in _matches(pattern)])
    if hasattr(source, "collect"):
        raise InputError(f"A {type(source).__name__} is not a table yet. Pass what its .collect() returns.")
    raise InputError(
        f"Cannot read a {type(source).__name__}. Pass a path, a glob, a list of paths, a DataFrame or an Arrow table."
    )


@contextmanager
def naming(label: object) -> Iterator[None]:
    """Turn what goes wrong in reading into an InputError that names the input."""
    try:
        yield
    except PlaceError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"Cannot read {label}: {error.strerror or error}.") from error
    except pa.ArrowException as error:
        raise InputError(f"Cannot read {label}: {error}") from error


def _guarded(batches: Iterable[pa.RecordBatch], label: object) -> Iterator[pa.RecordBatch]:
    # What the consumer raises never passes through here: only the reading is named.
    with naming(label):
        yield from batches


# Files


def _matches(pattern: StrPath) -> Sequence[Place]:
    if is_url(pattern):
        return _remote_matches(pattern)
    expanded = os.path.expanduser(pattern)  # noqa: PTH111 - leaves an unknown user's name as it is
    path = Path(expanded)
    with naming(path):
        if path.is_dir():
            raise InputError(f"{path} is a folder. Name its files with a glob: {path}/*.parquet")
        if path.exists():
            return [path]
    found = sorted(filter(Path.is_file, map(Path, glob(expanded, recursive=True))))  # noqa: PTH207 - absolute too
    if not found:
        raise InputError(f"No file matches {str(pattern)!r}. Relative paths begin at {Path.cwd()}.")
    return found


def _remote_matches(pattern: StrPath) -> Sequence[Place]:
    with naming(pattern):
        path = remote_path(pattern)
        if path.exists():
            return [path]
        if path.is_dir():
            raise InputError(f"{path} is a folder. Name its files with a glob: {path / '*.parquet'}")
        found = path.glob()
    if not found:
        raise InputError(f"No object matches {path}.")
    return found


def _open_files(paths: Sequence[Place]) -> Table:
    if not paths:
        raise InputError("The list of files is empty. Pass at least one path.")
    for path in paths:
        _check_path(path)
    _check_suffixes(paths)
    label = paths[0].name if len(paths) == 1 else f"{len(paths)} files ({paths[0].name}, …)"
    return _open_parquet(paths, label) if _is_parquet(paths[0]) else _open_csv(paths, label)


def _is_parquet(path: Place) -> bool:
    return path.suffix.lower() in _PARQUET_SUFFIXES


def _check_path(path: Place) -> None:
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"The path {str(path)!a} is not valid UTF-8. Rename the file or its folder.") from error


def _check_suffixes(paths: Sequence[Place]) -> None:
    for path in paths:
        if path.suffix.lower() not in _SUFFIXES:
            raise InputError(f"Cannot tell what {path} holds by its suffix. Supported: {', '.join(_SUFFIXES)}.")
        if _is_parquet(path) != _is_parquet(paths[0]):
            raise InputError(f"{paths[0]} and {path} are Parquet and CSV. Pass files of one kind.")


def _open_parquet(paths: Sequence[Place], label: str) -> Table:
    schemas = [_parquet_schema(path) for path in paths]
    schema = _common_schema(paths, schemas)
    batches = chain.from_iterable(_guarded(_parquet_batches(path), path) for path in paths)
    return Table(label, schema, batches, verbatim=paths[0] if len(paths) == 1 else None)


def _open_csv(paths: Sequence[Place], label: str) -> Table:
    headers = [_csv_header(path) for path in paths]
    schemas = [pa.schema([(name, pa.string()) for name in header.names]) for header in headers]
    schema = _common_schema(paths, schemas)
    batches = chain.from_iterable(
        _guarded(csvs.read_batches(path, header), path) for path, header in zip(paths, headers, strict=True)
    )
    return Table(label, schema, batches)


def _csv_header(path: Place) -> csvs.Header:
    with naming(path):
        header = csvs.read_header(path)
    _check_names(header.names, path)
    return header


@contextmanager
def _parquet_file(path: Place) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb")) if isinstance(path, RemotePath) else path
        yield stack.enter_context(pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, memory_map=False))


def _parquet_schema(path: Place) -> pa.Schema:
    with naming(path), _parquet_file(path) as file:
        schema = file.schema_arrow
    _check_names(schema.names, path)
    return schema


def _parquet_batches(path: Place) -> Iterator[pa.RecordBatch]:
    with _parquet_file(path) as file:
        yield from file.iter_batches(batch_size=_batch_rows(file.metadata), use_threads=False)


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Choose how many rows make a batch of about 8 MB where rows are largest."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(1, largest))))


def _common_schema(paths: Sequence[Place], schemas: Sequence[pa.Schema]) -> pa.Schema:
    for path, schema in zip(paths, schemas, strict=True):
        difference = _difference(schemas[0], schema)
        if difference:
            raise InputError(
                f"{path} differs from {paths[0]}: {difference}. All files need the same columns and types."
            )
    return schemas[0]


def _difference(first: pa.Schema, other: pa.Schema) -> str | None:
    for field in first:
        if field.name not in other.names:
            return f"it has no column {field.name!r}"
        type_ = other.field(field.name).type
        if type_ != field.type:
            return f"its column {field.name!r} is {type_}, not {field.type}"
    extra = [name for name in other.names if name not in first.names]
    return f"it has one more column, {extra[0]!r}" if extra else None


def _check_names(names: Sequence[str], label: object) -> None:
    if not names:
        raise InputError(f"{label} has no columns.")
    if len(set(names)) < len(names):
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise InputError(f"{label} has two columns named {twice!r}. Give every column a name of its own.")


# Tables in memory


def _open_stream(source: ArrowStream) -> Table:
    label = "the DataFrame" if type(source).__name__ == "DataFrame" else "the Arrow table"
    try:
        reader = pa.RecordBatchReader.from_stream(source)
    except Exception as error:  # every library has its own
        raise InputError(f"Cannot read {label}: {error}") from error
    _check_names(reader.schema.names, label)
    return Table(label, reader.schema, _guarded(reader, label), reader=reader)


def _is_dataframe(source: object) -> "TypeGuard[pd.DataFrame]":
    # Whoever holds a DataFrame has imported pandas; nobody else should wait for it.
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(source, pandas.DataFrame)


def _open_dataframe(frame: "pd.DataFrame") -> Table:
    label = "the DataFrame"
    for name in frame.columns:
        if not isinstance(name, str):
            raise InputError(
                f"The DataFrame's column {name!r} is named by {type(name).__name__}, not by text. "
                "Rename it: df.columns = df.columns.map(str)"
            )
    _check_names(list(frame.columns), label)
    table = frame_to_arrow(frame)
    return Table(label, table.schema, _guarded(table.to_batches(), label))
