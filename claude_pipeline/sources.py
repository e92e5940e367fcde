"""Any input becomes a snapshot: one Parquet file that a later edit of the input cannot reach."""

import io
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from claude_pipeline.errors import InputError
from claude_pipeline.files import replacing
from claude_pipeline.restoring import remember, through_parquet
from claude_pipeline.tables import Source, Table, naming, open_table

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Snapshot", "Source", "open_table", "snapshot"]

_PIECE_BYTES = 8 << 20
_ROW_GROUP_BYTES = 8 << 20
_ROW_GROUP_ROWS = 100_000
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An input as one Parquet file.

    Attributes:
        path: The Parquet file.
        digest: The blake2b-128 of the file's bytes, 32 hexadecimal digits.
        label: What messages call the input: `reviews.csv`, `3 files (a.csv, …)`, `the DataFrame`.
    """

    path: Path
    digest: str
    rows: int
    schema: pa.Schema
    label: str


def snapshot(source: Source | Table, path: Path, *, limit: int | None = None, mode: int = 0o666) -> Snapshot:
    """Copy the input, or its first `limit` rows, into one Parquet file at `path`.

    The file appears whole or not at all, and a single Parquet file is copied byte for byte. Memory stays flat:
    a row group of about 8 MB and one batch, whatever the size of the input.

    Raises:
        InputError: The input cannot be read, has no rows or columns, or cannot be stored as Parquet.
        StoreError: The file cannot be written.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InputError(f"limit is {limit!r}, but at least one row must be left. Pass 1 or more.")
    opened = source if isinstance(source, Table) else open_table(source)
    with closing(opened) as table, replacing(path, mode=mode) as temporary:
        with temporary.open("wb") as raw:
            file = _DigestingFile(raw)
            if table.verbatim is not None and limit is None:
                _copy(table.verbatim, file)
            else:
                _write(table, file, limit=limit)
        with naming(table.label):
            metadata = pq.read_metadata(temporary)
        if metadata.num_rows == 0:
            raise InputError(f"{table.label} has no rows.")
    schema = metadata.schema.to_arrow_schema()
    return Snapshot(path, file.hexdigest(), metadata.num_rows, schema, table.label)


class _DigestingFile(io.RawIOBase):
    """A file that hashes what is written to it, so that nothing is read twice."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._digest = blake2b(digest_size=16)

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer") -> int:
        self._digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _copy(source: Path, file: _DigestingFile) -> None:
    with naming(source):
        original = source.open("rb")
    with original:
        for data in _chunks(original, source):
            file.write(data)


def _chunks(file: BinaryIO, source: Path) -> Iterator[bytes]:
    with naming(source):
        yield from iter(partial(file.read, _COPY_BYTES), b"")


def _write(table: Table, file: _DigestingFile, *, limit: int | None) -> None:
    schema = _storable_schema(table.schema)
    _check_storable(schema, table.label)
    schema = remember(schema, original=table.schema)
    groups = _row_groups(_limited(_pieces(table, schema), limit))
    # A snapshot is only ever read from end to end: statistics would cost and serve nobody.
    with pq.ParquetWriter(file, schema, compression="zstd", write_statistics=False) as writer:
        for group in groups:
            try:
                writer.write_table(pa.Table.from_batches(group, schema))
            except pa.ArrowException as error:
                raise InputError(f"Cannot store {table.label} as Parquet: {error}") from error


def _pieces(table: Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Cut batches to about 8 MB, with the columns of the schema in its order."""
    for batch in table.batches:
        rows = max(1, batch.num_rows * _PIECE_BYTES // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, rows):
            yield _cast(batch.slice(start, rows), schema, table.label)


def _cast(batch: pa.RecordBatch, schema: pa.Schema, label: str) -> pa.RecordBatch:
    columns = []
    for field in schema:
        column = batch.column(field.name)
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowException as error:
            raise _not_storable(field, label, error) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _limited(batches: Iterable[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    left = limit
    for batch in batches:
        if left is None or batch.num_rows < left:
            yield batch
            left = None if left is None else left - batch.num_rows
        else:
            yield batch.slice(0, left)
            return


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    size = rows = 0
    for batch in batches:
        group.append(batch)
        size, rows = size + batch.nbytes, rows + batch.num_rows
        if size >= _ROW_GROUP_BYTES or rows >= _ROW_GROUP_ROWS:
            yield group
            group, size, rows = [], 0, 0
    if group:
        yield group


def _storable_schema(schema: pa.Schema) -> pa.Schema:
    # One file may allow nulls where the first does not.
    fields = [_storable_field(field).with_nullable(nullable=True) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _storable(type_: pa.DataType) -> pa.DataType:
    """Replace views, which few readers of Parquet know, by the large types that hold the same."""
    types = pa.types
    if types.is_string_view(type_) or types.is_binary_view(type_):
        return pa.large_string() if types.is_string_view(type_) else pa.large_binary()
    if types.is_struct(type_):
        return pa.struct([_storable_field(field) for field in type_])
    if types.is_dictionary(type_):
        return pa.dictionary(type_.index_type, _storable(type_.value_type), ordered=type_.ordered)
    return _storable_list(type_)


def _storable_list(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_list(type_):
        return pa.list_(_storable_field(type_.value_field))
    if pa.types.is_large_list(type_):
        return pa.large_list(_storable_field(type_.value_field))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_storable_field(type_.value_field), type_.list_size)
    return type_


def _storable_field(field: pa.Field) -> pa.Field:
    return field.with_type(_storable(field.type))


def _check_storable(schema: pa.Schema, label: str) -> None:
    for field in schema:
        try:
            through_parquet(pa.schema([field]))
        except pa.ArrowException as error:
            raise _not_storable(field, label, error) from error


def _not_storable(field: pa.Field, label: str, error: pa.ArrowException) -> InputError:
    return InputError(
        f"Column {field.name!r} of {label} is {field.type}, which Parquet cannot hold ({error}). "
        "Convert it, to text for instance, or leave it out."
    )
