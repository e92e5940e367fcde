"""Values as text and as JSON: one rule a type, whatever door the table came through.

`docs/templates.md` shows the rules. What is nested prints as JSON: numbers and bools stand there as they print alone,
all else, with `nan` and `inf`, is a string of what it prints alone.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from claude_pipeline.arrays import make_array
from claude_pipeline.errors import InputError

_TRAILING_ZEROS = r"(\.\d*?)0+([+-].*|Z)?$"
_EMPTY_FRACTION = r"\.([+-].*|Z)?$"
_OUT_OF_RANGE = "<"  # how Arrow begins the text of a moment that it cannot print
_DECIMALS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_NESTED = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
    pa.types.is_struct,
    pa.types.is_map,
)
_BARE = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_NOT_FINITE = ("nan", "inf", "-inf")

encode_text = msgspec.json.Encoder().encode
_quote = json.JSONEncoder(ensure_ascii=False).encode


class Unsendable(NamedTuple):
    """A row that cannot be asked, and why."""

    error_type: str
    error_message: str


Cell = bytes | Unsendable


def render_column(column: pa.Array, name: str) -> pa.Array:
    """Print a column's values as text, nulls kept: one rule a type.

    Raises:
        InputError: The type has no plain text, as with bytes, or a time zone is unknown; names the column.
    """
    column = _unwrap(column)
    kind = column.type
    if is_text(kind):
        return column
    if _is_one(kind, _NESTED):
        return make_array(_json_cells(column, name), pa.large_string())
    if pa.types.is_float16(kind):
        return pc.cast(pc.cast(_shortest(column), pa.float64()), pa.string())
    if pa.types.is_duration(kind):
        return _print_durations(column)
    if pa.types.is_temporal(kind):
        return _print_moments(column, name)
    return _print(column, name)


def read_texts(column: pa.Array, name: str) -> list[str | Unsendable | None]:
    """Print a column's values as text, or say why one has none: Parquet files may hold what is not Unicode.

    Raises:
        InputError: The type has no plain text; names the column.
    """
    try:
        texts: list[str | Unsendable | None] = render_column(column, name).to_pylist()
    except UnicodeDecodeError:
        if len(column) == 1:
            return [invalid_text(name)]
        middle = len(column) // 2
        return read_texts(column.slice(0, middle), name) + read_texts(column.slice(middle), name)
    return texts


def invalid_text(column: str) -> Unsendable:
    """Say that the text of a row is not Unicode."""
    return Unsendable("invalid_text", f"The text in column {column!r} is not valid UTF-8. Mend it in the input.")


def _unwrap(column: pa.Array) -> pa.Array:
    """Return the array that a dictionary or an extension type stands for."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _unwrap(column.dictionary_decode())
    if not isinstance(kind, pa.BaseExtensionType):
        return column
    match kind.extension_name:
        case "arrow.uuid":
            return make_array([uuid and str(uuid) for uuid in column.to_pylist()], pa.string())
        case "arrow.bool8":
            return pc.cast(column.storage, pa.bool_())
        case _:
            return _unwrap(column.storage)


def _print(column: pa.Array, name: str) -> pa.Array:
    kind = column.type
    if _is_one(kind, _BYTES):  # Arrow would take them for text
        raise InputError(
            f"Column {name!r} holds {kind}, and bytes have no plain text. "
            "Decode them to text, or send pictures and PDFs by images= or documents=."
        )
    # An unknown time zone shows only where there is a value, be it null.
    some = column if len(column) else pa.nulls(1, kind)
    try:
        return pc.cast(some, pa.string()).slice(0, len(column))
    except pa.ArrowNotImplementedError as error:
        raise InputError(
            f"Column {name!r} holds {kind}, which has no plain text. Turn it into text before it goes into a template."
        ) from error
    except pa.ArrowInvalid as error:
        raise InputError(f"Column {name!r} holds {kind}: {error}. Convert it to UTC or to text.") from error


def _print_moments(column: pa.Array, name: str) -> pa.Array:
    kind = column.type
    text = _print(column, name)
    # In a time zone a moment out of range would print as another one.
    checked = _print(pc.cast(column, pa.timestamp(kind.unit)), name) if getattr(kind, "tz", None) else text
    for pattern, kept in ((_TRAILING_ZEROS, r"\1\2"), (_EMPTY_FRACTION, r"\1")):
        text = pc.replace_substring_regex(text, pattern, kept)
    return pc.if_else(pc.starts_with(checked, _OUT_OF_RANGE), pa.nulls(len(text), pa.string()), text)


def _print_durations(column: pa.Array) -> pa.Array:
    decimals = _DECIMALS[column.type.unit]
    ticks = pc.cast(column, pa.int64()).to_pylist()
    return make_array([None if tick is None else _iso_duration(tick, decimals) for tick in ticks], pa.string())


def _iso_duration(ticks: int, decimals: int) -> str:
    total, fraction = divmod(abs(ticks), 10**decimals)
    minutes, seconds = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    exact = f"{seconds}.{fraction:0{decimals}}".rstrip("0").rstrip(".")
    clock = "".join(
        f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M"), (exact, "S")) if str(count) != "0"
    )
    text = (f"{days}D" if days else "") + (f"T{clock}" if clock else "")
    return ("-P" if ticks < 0 else "P") + (text or "T0S")


def _shortest(halves: pa.Array) -> pa.Array:
    # Arrow prints all digits of the double that a half float is equal to; a whole one keeps them.
    cells = [half if half is None else str(np.float16(half) if half % 1 else half) for half in halves.to_pylist()]
    return make_array(cells, pa.string())


def _json_cells(column: pa.Array, name: str) -> list[str | None]:
    """Write each value as JSON; a null stays None."""
    column = _unwrap(column)
    kind = column.type
    if pa.types.is_struct(kind):
        return _json_structs(column, name)
    if pa.types.is_map(kind):
        return _json_maps(column, name)
    if _is_one(kind, _NESTED):
        return _json_lists(column, name)
    cells = render_column(column, name).to_pylist()
    bare = _is_one(kind, _BARE)
    return [cell if cell is None or (bare and cell not in _NOT_FINITE) else _quote(cell) for cell in cells]


def _json_structs(column: pa.Array, name: str) -> list[str | None]:
    fields = zip(column.type, column.flatten(), strict=True)
    members = [
        [f"{_quote(field.name)}: {cell or 'null'}" for cell in _json_cells(cells, name)] for field, cells in fields
    ]
    rows = zip(column.is_valid().to_pylist(), *members, strict=True)
    return [_within("{}", row) if valid else None for valid, *row in rows]


def _json_maps(column: pa.Array, name: str) -> list[str | None]:
    ends = column.offsets.to_pylist()
    first, last = ends[0], ends[-1]
    names = render_column(column.keys[first:last], name).to_pylist()
    values = _json_cells(column.items[first:last], name)
    keys = (_quote("null" if name is None else name) for name in names)
    pairs = [f"{key}: {value or 'null'}" for key, value in zip(keys, values, strict=True)]
    spans = zip(pairwise(ends), column.is_valid().to_pylist(), strict=True)
    return [_within("{}", pairs[start - first : end - first]) if valid else None for (start, end), valid in spans]


def _json_lists(column: pa.Array, name: str) -> list[str | None]:
    items = iter([item or "null" for item in _json_cells(column.flatten(), name)])
    lengths = pc.list_value_length(column).to_pylist()
    return [length if length is None else _within("[]", islice(items, length)) for length in lengths]


def _within(brackets: str, items: Iterable[str]) -> str:
    return brackets[0] + ", ".join(items) + brackets[1]


def _is_one(kind: pa.DataType, tests: Sequence[Callable[[pa.DataType], bool]]) -> bool:
    return any(test(kind) for test in tests)


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type is text, as it is or behind a dictionary."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return _is_one(kind, _TEXT)


def check_unicode(what: str, text: str) -> None:
    """Make sure that a text is one, and can be encoded.

    Raises:
        InputError: It is something else, or holds half a character; names its place.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} is {text!r}, which is no text. Write {str(text)!r}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a character (a lone surrogate) at position {error.start}. Remove it: {text[:60]!a}."
        ) from error


def to_json(key: str, value: object) -> bytes:
    """Write the value of a parameter as JSON, nothing inside it reordered.

    Raises:
        InputError: It has no JSON; names the parameter.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Parameter {key!r} cannot be sent as JSON ({error}): {shorten(repr(value))}. Use plain JSON values."
        ) from error
    check_unicode(f"Parameter {key!r}", text)
    return text.encode()


def shorten(text: str) -> str:
    """Cut a text to about a line's width."""
    return text if len(text) <= 60 else text[:57] + "…"  # noqa: PLR2004  about a line's width
