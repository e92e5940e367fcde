"""Python and NumPy values into Arrow arrays.

`pa.array` would do, but it imports pandas, which takes longer than most jobs' work.
"""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


def make_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Make an array of numbers, text or bytes out of Python values and None; beneath a null lies 0 or nothing."""
    nulls = values.count(None)
    if values and nulls == len(values):
        return pa.nulls(len(values), kind)
    bits = _validity(values) if nulls else None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        filled = [value or 0 for value in values] if bits else values
        numbers = np.fromiter(filled, dtype=kind.to_pandas_dtype(), count=len(values))
        return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(numbers)])
    if pa.types.is_fixed_size_binary(kind):
        blank = bytes(kind.byte_width)
        return pa.Array.from_buffers(
            kind, len(values), [bits, pa.py_buffer(b"".join(cell or blank for cell in values))]
        )
    cells, lengths = _cells([value or "" for value in values] if bits else values)
    wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    offsets = np.zeros(len(values) + 1, dtype=np.int64 if wide else np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(offsets), pa.py_buffer(cells)])


def _validity(values: Sequence[Any]) -> pa.Buffer:
    valid = np.fromiter((value is not None for value in values), dtype=bool, count=len(values))
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def _cells(values: Sequence[str | bytes]) -> tuple[bytes, list[int]]:
    """Join text or bytes, and tell how many bytes each has; ASCII is encoded in one go, and what repeats once."""
    if values and values.count(values[0]) == len(values):
        cell = values[0].encode() if isinstance(values[0], str) else values[0]
        return cell * len(values), [len(cell)] * len(values)
    with suppress(TypeError):  # bytes are not joined so
        text = "".join(cast("Sequence[str]", values))
        if text.isascii():
            return text.encode(), list(map(len, values))
    cells = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(cells), list(map(len, cells))


def make_record_batch(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch out of at least one row."""
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [make_array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )


def int64_array(numbers: npt.NDArray[np.int64], *, valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Wrap integers as an array; those that are not valid are null."""
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    contiguous = np.ascontiguousarray(numbers, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(contiguous), [bits, pa.py_buffer(contiguous)])


def float64_array(numbers: npt.NDArray[np.float64]) -> pa.Array:
    """Wrap numbers as an array; NaN is null."""
    known = ~np.isnan(numbers)
    bits = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(pa.float64(), len(numbers), [bits, pa.py_buffer(numbers)])


def to_int64(column: pa.Array) -> npt.NDArray[np.int64]:
    """View an array of integers as NumPy; instead of a null there is what lies beneath it."""
    return np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset : column.offset + len(column)]


def to_bools(column: pa.Array) -> npt.NDArray[np.bool_]:
    """View an array of truth values without nulls as NumPy."""
    bits = np.frombuffer(column.buffers()[1], dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")[column.offset : column.offset + len(column)].astype(bool)


def to_float64(column: pa.Array) -> npt.NDArray[np.float64]:
    """Copy an array of 64-bit numbers to NumPy; null is NaN."""
    kind = column.type.to_pandas_dtype()
    numbers = np.frombuffer(column.buffers()[1], dtype=kind)[column.offset : column.offset + len(column)]
    copied = numbers.astype(np.float64)
    if column.null_count:
        copied[~to_bools(column.is_valid())] = np.nan
    return copied


def give_back(*, every: bool = False) -> None:
    """Give memory that Arrow needs no more back to the system; its allocator keeps tens of megabytes otherwise.

    With `every` what Python and NumPy need no more goes as well, where the C library can do that: GNU's.
    """
    pa.default_memory_pool().release_unused()
    if every:
        with suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)


def repeated(value: Any, kind: pa.DataType, count: int) -> pa.Array:  # noqa: ANN401  what an Arrow array may hold
    """Make an array that says the same `count` times."""
    return make_array([value] * count, kind)


def bool_array(flags: npt.NDArray[np.bool_]) -> pa.Array:
    """Wrap truth values as an array."""
    return pa.Array.from_buffers(pa.bool_(), len(flags), [None, pa.py_buffer(np.packbits(flags, bitorder="little"))])
