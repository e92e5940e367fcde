"""DataFrames of pandas: in as Arrow, out again with their dtypes, their index and their names.

pyarrow's own metadata brings back most of it. What is still another after a way through Parquet is found by trying it
with no rows, and described in the schema's metadata. pandas is imported by whoever holds a frame or wants one.
"""

import json
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from claude_pipeline.errors import InputError
from claude_pipeline.restoring import pack, through_parquet, unpack

if TYPE_CHECKING:
    import pandas as pd

_KEY = b"claude_pipeline:pandas"
_REFUSALS = (pa.ArrowException, ValueError, TypeError, OverflowError)
_CATEGORIES_BYTES = 16 << 20
_OWN_TYPES = frozenset({"ignore_metadata", "types_mapper"})

_Values = Any  # a Series or an Index


def frame_to_arrow(frame: "pd.DataFrame") -> pa.Table:
    """Turn a DataFrame whose columns are named by text into a table that `arrow_to_frame` turns back.

    Raises:
        InputError: A column, or the index, holds what Arrow does not; names it.
    """
    plain = _plain(frame)
    try:
        table = pa.Table.from_pandas(plain)
    except _REFUSALS as error:
        for what, values in _named_values(plain):
            _check_values(what, values)
        raise InputError(f"The DataFrame cannot become an Arrow table: {error}") from error
    return _described(frame, table.replace_schema_metadata(_readable(table.schema.metadata)))


def arrow_to_frame(table: pa.Table, **options: Any) -> "pd.DataFrame":  # noqa: ANN401  what pyarrow.Table.to_pandas takes
    """Turn a table into a DataFrame; one that came from a DataFrame has its dtypes and its index again.

    What was edited since, and no longer fits what is told of it, comes as pyarrow has it.
    With a `types_mapper` or `ignore_metadata` among the options these say which dtypes there are.
    """
    import pandas as pd  # noqa: PLC0415  who wants a frame waits for it

    table = _with_its_range(table)
    told = json.loads((table.schema.metadata or {}).get(_KEY, "{}"))
    if not told or _OWN_TYPES & options.keys():
        return _converted(table, **options)
    stored = [name for name in (table.schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
    # A selection of its own outlives a conversion with `self_destruct`.
    kept = table.select([name for name in table.column_names if name in told["columns"] or name in stored])
    frame = _converted(table, **options)
    for name, dtype in told["columns"].items():
        if name in frame.columns:
            with suppress(*_REFUSALS):
                values = _restored(kept[name], frame[name], dtype)
                frame[name] = pd.Series(values, index=frame.index, dtype=values.dtype)
    return _with_index(frame, [kept[name] for name in stored if name in kept.column_names], told)


# Into Arrow


def _plain(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Put what Arrow takes in place of what it does not: values for sparse ones, text for categories of intervals."""
    import pandas as pd  # noqa: PLC0415  whoever holds a frame has it

    plain = frame.copy(deep=False)
    plain.columns = pd.Index(list(frame.columns), name=frame.columns.name)
    for name in plain.columns:
        plain[name] = _plain_values(frame[name])
    if not isinstance(frame.index, pd.RangeIndex):
        levels = [_plain_values(values) for values in _levels(frame.index)]
        plain.index = pd.MultiIndex.from_arrays(levels) if frame.index.nlevels > 1 else levels[0]
    plain.index.names = [name if name is None else str(name) for name in frame.index.names]
    return plain


def _plain_values(values: _Values) -> _Values:
    import pandas as pd  # noqa: PLC0415

    dtype = values.dtype
    if isinstance(dtype, pd.SparseDtype):
        return values.astype(dtype.subtype)
    if _is_told_by_text(dtype):
        texts = pd.CategoricalDtype(list(map(str, dtype.categories)), ordered=dtype.ordered)
        coded = pd.Categorical.from_codes(_categorical(values).codes, dtype=texts)
        return pd.CategoricalIndex(coded) if isinstance(values, pd.Index) else pd.Series(coded, index=values.index)
    return values


def _is_told_by_text(dtype: Any) -> bool:  # noqa: ANN401
    import pandas as pd  # noqa: PLC0415

    is_category = isinstance(dtype, pd.CategoricalDtype)
    return is_category and isinstance(dtype.categories.dtype, pd.IntervalDtype | pd.PeriodDtype)


def _categorical(values: _Values) -> "pd.Categorical":
    found: pd.Categorical = values.array if hasattr(values, "array") else values
    return found


def _levels(index: "pd.Index[Any]") -> list["pd.Index[Any]"]:
    unnamed = index.set_names([None] * index.nlevels)  # a level that is called 1 would be taken for the second
    return [unnamed.get_level_values(level).rename(name) for level, name in enumerate(index.names)]


def _readable(metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Call a dtype that pandas cannot read back "object": its own reader of Parquet would fail over it."""
    described = json.loads(metadata[b"pandas"])
    for column in described["columns"]:
        if not _is_dtype(column["numpy_type"]):
            column["numpy_type"] = "object"
    return {**metadata, b"pandas": json.dumps(described).encode()}


def _is_dtype(text: str) -> bool:
    import pandas as pd  # noqa: PLC0415

    try:
        pd.api.types.pandas_dtype(text)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


# What is wrong


def _named_values(frame: "pd.DataFrame") -> Iterator[tuple[str, _Values]]:
    yield from ((f"Column {name!r} of the DataFrame", frame[name]) for name in frame.columns)
    for values in _levels(frame.index):
        named = "" if values.name is None else f" {values.name!r}"
        yield f"The index{named} of the DataFrame", values.to_series()


def _check_values(what: str, series: "pd.Series[Any]") -> None:
    rows = range(1, len(series) + 1)
    row = bisect_left(rows, 1, key=lambda count: _conversion_error(series.iloc[:count]) is not None) + 1
    if row in rows:
        value = series.iloc[row - 1]
        raise InputError(
            f"{what} cannot become an Arrow column: "
            f"{type(value).__name__} {_beginning(value)} in row {row}: {_conversion_error(series.iloc[:row])}. "
            "Make its values one type, of valid text or numbers; lists that differ go as text, by json.dumps."
        )


def _conversion_error(series: "pd.Series[Any]") -> Exception | None:
    try:
        pa.array(series, from_pandas=True)
    except _REFUSALS as error:
        return error
    return None


def _beginning(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004 - enough to recognize a value by


# What a way through Parquet changes


def _described(frame: "pd.DataFrame", table: pa.Table) -> pa.Table:
    """Add to a table's metadata what else `arrow_to_frame` must know."""
    try:
        tried = through_parquet(table.schema)
    except pa.ArrowException:  # whoever stores it names the column
        return table
    empty = _converted(tried.empty_table())
    columns = {name: _lost(frame[name], empty[name]) for name in frame.columns}
    index = [_lost(*pair) for pair in zip(_levels(frame.index), _levels(empty.index), strict=True)]
    told = {
        "columns": {name: dtype for name, dtype in columns.items() if dtype},
        "index": index,
        "names": list(frame.index.names) if _is_json(list(frame.index.names)) else list(empty.index.names),
        "freq": _frequency(frame.index),
    }
    if not told["columns"] and not any(index) and not told["freq"] and told["names"] == list(empty.index.names):
        return table
    return table.replace_schema_metadata({**table.schema.metadata, _KEY: json.dumps(told).encode()})


def _lost(values: _Values, tried: _Values) -> dict[str, Any] | None:
    if isinstance(values.dtype, np.dtype) and values.dtype.kind == "O":
        # What Arrow makes of objects follows their values. Arrays in cells are arrays again by themselves.
        first = next(iter(values[values.notna()]), None)
        return None if isinstance(first, np.ndarray) else {"objects": True}
    return None if values.dtype == tried.dtype else _describe(values.dtype)


def _describe(dtype: Any) -> dict[str, Any] | None:  # noqa: ANN401  a dtype of NumPy or of pandas
    import pandas as pd  # noqa: PLC0415

    if isinstance(dtype, pd.CategoricalDtype):
        categories = _write(dtype.categories)
        known = {"ordered": dtype.ordered, "texts": _is_told_by_text(dtype)}
        return {"categories": categories, **known} if len(categories) <= _CATEGORIES_BYTES else None
    if isinstance(dtype, pd.ArrowDtype):
        return {"arrow": pack(pa.schema([("type", dtype.pyarrow_dtype)])).decode()}
    is_string = isinstance(dtype, pd.StringDtype) and dtype.na_value is pd.NA
    text = f"string[{dtype.storage}]" if is_string else str(dtype)
    return {"dtype": text} if _is_dtype(text) and pd.api.types.pandas_dtype(text) == dtype else None


def _write(categories: "pd.Index[Any]") -> str:
    table = frame_to_arrow(categories.to_frame(index=False, name="categories"))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(table)
    return b64encode(sink.getvalue()).decode()


def _read(categories: str) -> "pd.Index[Any]":
    import pandas as pd  # noqa: PLC0415

    with pa.ipc.open_stream(b64decode(categories)) as stream:
        index: pd.Index[Any] = pd.Index(arrow_to_frame(stream.read_all())["categories"]).rename(None)
    return index


def _is_json(names: list[Any]) -> bool:
    try:
        read = json.loads(json.dumps(names, allow_nan=False))
    except (TypeError, ValueError):
        return False
    return [*map(type, read)] == [*map(type, names)] and read == names


def _frequency(index: "pd.Index[Any]") -> str | None:
    from pandas.tseries.frequencies import to_offset  # noqa: PLC0415

    text = getattr(index, "freqstr", None) if index.dtype.kind in "mM" else None
    try:
        return text if text and to_offset(text) == getattr(index, "freq", None) else None
    except ValueError:
        return None


# Out of Arrow


def _converted(table: pa.Table, **options: Any) -> "pd.DataFrame":  # noqa: ANN401  what pyarrow.Table.to_pandas takes
    """Let pyarrow make a frame, in which what neither NumPy nor pandas has a dtype for stays Arrow's."""
    try:
        frame: pd.DataFrame = table.to_pandas(**options)
    except pa.ArrowNotImplementedError:
        frame = table.to_pandas(**{"types_mapper": _own_type, **options})
    return frame


def _own_type(type_: pa.DataType) -> "pd.ArrowDtype | None":
    import pandas as pd  # noqa: PLC0415

    try:
        pa.nulls(0, type_).to_pandas()
    except pa.ArrowNotImplementedError:
        return pd.ArrowDtype(type_)
    return None


def _restored(column: pa.ChunkedArray, found: _Values, told: Mapping[str, Any]) -> _Values:
    """Return values of the dtype that is told of: an array of pandas or of NumPy."""
    import pandas as pd  # noqa: PLC0415

    match told:
        case {"categories": categories, "ordered": ordered, "texts": texts}:
            known = _read(categories)
            written = pd.Index(list(map(str, known))) if texts else known
            codes = written.get_indexer(pd.Index(found))
            if (codes < 0).sum() > found.isna().sum():
                raise ValueError(told)  # no such category: the column was edited after it was described
            return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(known, ordered=ordered))
        case {"arrow": schema}:
            return pd.arrays.ArrowExtensionArray(column.cast(unpack(schema).field(0).type))
        case {"objects": True}:
            return pd.Series(column.to_pylist(), dtype=object).to_numpy()
        case _:
            return found.astype(told["dtype"]).array


def _restored_level(column: pa.ChunkedArray, found: "pd.Index[Any]", told: Mapping[str, Any]) -> "pd.Index[Any]":
    import pandas as pd  # noqa: PLC0415

    values = _restored(column, found, told)
    level: pd.Index[Any] = pd.Index(values, dtype=values.dtype)
    return level


def _with_its_range(table: pa.Table) -> pa.Table:
    """Let a range of labels end with the rows: pyarrow counts from 0 where a limit has cut them."""
    described = table.schema.pandas_metadata
    match described:
        case {"index_columns": [{"kind": "range", "start": start, "step": step} as labels]}:
            labels["stop"] = start + step * table.num_rows
        case _:
            return table
    return table.replace_schema_metadata({**table.schema.metadata, b"pandas": json.dumps(described).encode()})


def _with_index(frame: "pd.DataFrame", stored: list[pa.ChunkedArray], told: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    dtypes = told["index"]
    if any(dtypes) and len(stored) == len(dtypes):
        levels = [
            _restored_level(column, found, dtype) if dtype else found
            for column, found, dtype in zip(stored, _levels(frame.index), dtypes, strict=True)
        ]
        frame.index = pd.MultiIndex.from_arrays(levels) if len(levels) > 1 else levels[0]
    if frame.index.nlevels == len(told["names"]):
        frame.index.names = told["names"]
    if told["freq"]:
        frame.index.freq = told["freq"]  # type: ignore[attr-defined]  # an index of times
    return frame
