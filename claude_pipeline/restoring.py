"""What Parquet forgets of a table's types, kept in the metadata of its schema and restored from there.

Parquet has neither views nor seconds, and categories of text only. A snapshot holds what every reader knows; whoever
asked with an Arrow table gets its own types back.
"""

import io
from base64 import b64decode, b64encode
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

_KEY = b"claude_pipeline:arrow"


def through_parquet(schema: pa.Schema) -> pa.Schema:
    """Return the schema that a reader finds in a Parquet file written with this one.

    Raises:
        pyarrow.ArrowException: Parquet cannot hold a type.
    """
    file = io.BytesIO()
    pq.ParquetWriter(file, schema).close()
    return pq.read_schema(file)


def remember(schema: pa.Schema, *, original: pa.Schema) -> pa.Schema:
    """Add to a schema that Parquet can hold what is lost of the original types, as far as it can be restored."""
    kept = through_parquet(schema)
    lost = [field for field in original if field.type != kept.field(field.name).type]
    lost = [field for field in lost if _is_restored(pa.nulls(1, kept.field(field.name).type), field.type)]
    if not lost:
        return schema
    return schema.with_metadata({**(schema.metadata or {}), _KEY: pack(pa.schema(lost))})


def restore(table: pa.Table) -> pa.Table:
    """Give the columns of a table the types that they came with.

    Whoever edits a file of answers leaves the description of its types in it. What no longer fits stays as it is.
    """
    metadata = dict(table.schema.metadata or {})
    if _KEY not in metadata:
        return table
    for field in _described(metadata.pop(_KEY)):
        if field.name in table.column_names:
            at = table.schema.get_field_index(field.name)
            typed = table.schema.field(at).with_type(field.type)
            with suppress(pa.ArrowException):
                table = table.set_column(at, typed, _cast(table.column(at), field.type))
    return table.replace_schema_metadata(metadata or None)


def _described(text: bytes) -> pa.Schema:
    try:
        return unpack(text)
    except (ValueError, OSError, pa.ArrowException):
        return pa.schema([])


def pack(schema: pa.Schema) -> bytes:
    """Write a schema as text, for metadata."""
    return b64encode(schema.serialize().to_pybytes())


def unpack(text: bytes | str) -> pa.Schema:
    """Read what `pack` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(b64decode(text)))


def _cast(column: pa.Array | pa.ChunkedArray, type_: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if pa.types.is_dictionary(type_) and not pa.types.is_dictionary(column.type):
        column = column.cast(type_.value_type).dictionary_encode()
    return column.cast(type_)


def _is_restored(column: pa.Array, type_: pa.DataType) -> bool:
    try:
        _cast(column, type_)
    except pa.ArrowException:
        return False
    return True
