"""Rows of a job, as a user chooses them, become positions in its input."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from claude_pipeline.display import plural
from claude_pipeline.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Positions: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = (
    "Sequence[int] | Sequence[bool] | npt.NDArray[Any] | pd.DataFrame | pd.Index[Any] | pd.Series[Any] | pa.Array"
)


def choose(rows: Rows, *, count: int, index: "Callable[[], pd.Index[Any]]") -> Positions:
    """Return the positions of rows, in their order, each once.

    Args:
        rows: Positions from 0, truth values for all rows, or a DataFrame or Index with labels of the job's frame.
        count: How many rows there are.
        index: Returns the index of the job's frame.

    Raises:
        InputError: There are no such rows, or it cannot be told which are meant.
    """
    labels = _labels_of(rows)
    if labels is not None:
        found = _of_labels(labels, index())
    else:
        values = _plain(rows)
        found = _of_mask(values, count) if _is_mask(values) else _of_numbers(values, count)
    if not len(found):
        raise InputError("No rows are chosen. Pass at least one.")
    return np.unique(found)


def _labels_of(rows: object) -> "pd.Index[Any] | None":
    # Whoever holds one has imported pandas; nobody else should wait for it.
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(rows, pandas.DataFrame | pandas.Index):
        return None
    labels: pd.Index[Any] = rows.index if isinstance(rows, pandas.DataFrame) else rows
    return labels


def _of_labels(labels: "pd.Index[Any]", index: "pd.Index[Any]") -> Positions:
    if not index.is_unique:
        raise InputError(
            "The index of the job's frame names several rows alike. Pass positions, counted from 0, or truth values."
        )
    places = np.asarray(index.get_indexer(labels), dtype=np.int64)
    if (places < 0).any():
        label = labels.tolist()[int(np.flatnonzero(places < 0)[0])]
        raise InputError(f"No row of the job has the label {label!r}. Pass rows of failed() or of to_pandas().")
    return places


def _plain(rows: Any) -> list[object]:  # noqa: ANN401  a sequence, a Series, an array of NumPy's or Arrow's
    for name in ("tolist", "to_pylist"):
        if hasattr(rows, name):
            return list(getattr(rows, name)())
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise InputError(f"Cannot tell rows by {rows!r}. Pass positions, truth values, or rows of failed().")
    return list(rows)


def _is_mask(values: Sequence[object]) -> bool:
    return bool(values) and all(value is None or isinstance(value, bool | np.bool_) for value in values)


def _of_mask(values: Sequence[object], count: int) -> Positions:
    if len(values) != count:
        raise InputError(f"There are {len(values):,} truth values for {plural(count, 'row')}. Pass one for each row.")
    return np.flatnonzero([bool(value) for value in values])


def _of_numbers(values: Sequence[object], count: int) -> Positions:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise InputError(f"{value!r} is no position of a row. Pass whole numbers, counted from 0.")
        if not 0 <= value < count:
            raise InputError(f"There is no row {value:,}. The job has {plural(count, 'row')}, counted from 0.")
    return np.array(values, dtype=np.int64)
