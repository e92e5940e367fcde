"""Cells as the plain values that JSON is made of: one rule a type, whatever door the table came through."""

import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice, repeat
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from claude_pipeline.errors import InputError
from claude_pipeline.values import invalid_text, is_text, render_column

_IS_LIST = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_IS_SHORT_FLOAT = (pa.types.is_float16, pa.types.is_float32)
_IS_PLAIN = (is_text, pa.types.is_boolean, pa.types.is_integer, pa.types.is_float64)


def read_cells(column: pa.Array, name: str) -> Iterator[Any]:
    """Yield each row's value, or an `Unsendable` if its text is not Unicode, as Parquet files may hold.

    Objects lack the keys that are null: Arrow gives every struct the keys of all. Dates and times are text.

    Raises:
        InputError: The type has no JSON, as with bytes; names it and the column.
    """
    try:
        values = _to_values(column, name)
    except UnicodeDecodeError:
        if len(column) == 1:
            yield invalid_text(name)
            return
        middle = len(column) // 2
        yield from read_cells(column.slice(0, middle), name)
        yield from read_cells(column.slice(middle), name)
    else:
        yield from values


def check_json(kind: pa.DataType, name: str) -> None:
    """Make sure that values of a type have JSON.

    Raises:
        InputError: They have none; names the type and the column.
    """
    _to_values(pa.nulls(0, kind), name)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is none of its numbers")


parse_json = json.JSONDecoder(parse_constant=_refuse_constant).decode  # whole numbers of any size stay exact


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Look behind dictionaries and extensions, such as text that its database calls JSON."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    return plain_type(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a type is a list, of whatever layout."""
    return any(is_kind(kind) for is_kind in _IS_LIST)


def _to_values(column: pa.Array, name: str) -> list[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _to_values(column.dictionary_decode(), name)
    if isinstance(kind, pa.BaseExtensionType):
        return _to_values(column.storage, name)
    if pa.types.is_struct(kind):
        return _to_objects(column, name)
    if is_list(kind):
        return _to_lists(column, name)
    return _to_scalars(column, name)


def _to_objects(column: pa.Array, name: str) -> list[dict[str, Any] | None]:
    keys = [field.name for field in column.type]
    children = [_to_values(child, name) for child in column.flatten()]
    valid = column.is_valid().to_pylist()
    rows = zip(*children, strict=True) if children else repeat((), len(column))
    return [
        {key: cell for key, cell in zip(keys, row, strict=True) if cell is not None} if is_valid else None
        for row, is_valid in zip(rows, valid, strict=True)
    ]


def _to_lists(column: pa.Array, name: str) -> list[list[Any] | None]:
    values = iter(_to_values(column.flatten(), name))
    lengths = pc.list_value_length(column).to_pylist()
    return [None if length is None else list(islice(values, length)) for length in lengths]


def _to_scalars(column: pa.Array, name: str) -> list[Any]:
    kind = column.type
    if any(is_kind(kind) for is_kind in _IS_PLAIN):
        return list(column.to_pylist())
    if any(is_kind(kind) for is_kind in _IS_SHORT_FLOAT):  # 0.1 stays 0.1, though it is another double
        return [None if text is None else float(text) for text in pc.cast(column, pa.string()).to_pylist()]
    if pa.types.is_decimal(kind):
        return [_to_number(value) for value in column.to_pylist()]
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return list(render_column(column, name).to_pylist())
    raise InputError(f"Column {name!r} holds {kind}, which has no JSON. Write it as text.")


def _to_number(value: Decimal | None) -> float | None:
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)
