"""Python values, as they come out of JSON, into typed Arrow columns; None is null.

`pa.array` would do, but it imports pandas.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from functools import partial
from operator import attrgetter
from typing import Any, Final

import numpy as np
import pyarrow as pa

from claude_pipeline.arrays import make_array

Column = Callable[[Sequence[Any]], pa.Array]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = _EPOCH.toordinal()


def texts(values: Sequence[str | None]) -> pa.Array:
    """Make a column of text."""
    return make_array(values, pa.string())


def integers(values: Sequence[int | None]) -> pa.Array:
    """Make a column of whole numbers of 64 bits."""
    return make_array(values, pa.int64())


def numbers(values: Sequence[float | None]) -> pa.Array:
    """Make a column of floats."""
    return make_array(values, pa.float64())


def bools(values: Sequence[bool | None]) -> pa.Array:
    """Make a column of truth values."""
    bits = _pack([bool(value) for value in values])
    return pa.Array.from_buffers(pa.bool_(), len(values), [_validity(values), bits])


def choices(values: Sequence[str | None], *, of: Sequence[str]) -> pa.Array:
    """Make a column of words from a list, which stands in its dictionary as a whole."""
    place: dict[str | None, int] = {word: index for index, word in enumerate(of)}
    indices = make_array([place.get(value) for value in values], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, make_array(of, pa.string()))


def dates(values: Sequence[date | None]) -> pa.Array:
    """Make a column of days."""
    days = [None if value is None else value.toordinal() - _EPOCH_DAY for value in values]
    return make_array(days, pa.int32()).view(pa.date32())


def moments(values: Sequence[datetime | None]) -> pa.Array:
    """Make a column of moments in UTC, which is also meant where no offset is given."""
    ticks = [None if value is None else _microseconds(value) for value in values]
    return make_array(ticks, pa.int64()).view(pa.timestamp("us", tz="UTC"))


def times(values: Sequence[time | None]) -> pa.Array:
    """Make a column of times of day, as they were written: an offset is left out."""
    ticks = [
        None
        if value is None
        else ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
        for value in values
    ]
    return make_array(ticks, pa.int64()).view(pa.time64("us"))


def lists(values: Sequence[list[Any] | None], *, kind: pa.DataType, items: Column) -> pa.Array:
    """Make a column of lists."""
    lengths = np.fromiter((len(value) if value else 0 for value in values), dtype=np.int32, count=len(values))
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    flat = items([item for value in values if value for item in value])
    buffers = [_validity(values), pa.py_buffer(offsets)]
    return pa.Array.from_buffers(kind, len(values), buffers, children=[flat])


def structs(values: Sequence[Any], *, kind: pa.DataType, blank: Any, members: Sequence[Column]) -> pa.Array:  # noqa: ANN401  a Struct with f0, f1, …
    """Make a column of structs; where it is null its members are those of `blank`."""
    validity = _validity(values)
    filled = [blank if value is None else value for value in values] if validity else values
    children = [member([*map(attrgetter(f"f{place}"), filled)]) for place, member in enumerate(members)]
    return pa.Array.from_buffers(kind, len(values), [validity], children=children)


def list_column(item_kind: pa.DataType, items: Column) -> tuple[pa.DataType, Column]:
    """Return the type of lists of a type, and what makes them."""
    kind = pa.list_(item_kind)
    return kind, partial(lists, kind=kind, items=items)


def _microseconds(value: datetime) -> int:
    since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    is_valid = [value is not None for value in values]
    return None if all(is_valid) else _pack(is_valid)


def _pack(flags: Sequence[bool]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.fromiter(flags, dtype=bool, count=len(flags)), bitorder="little"))
