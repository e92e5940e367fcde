"""What answers came to, counted in one walk over their file, with the first rows of each trouble."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Trouble = Literal["unanswered", "truncated", "refused", "invalid"]

TROUBLES: Sequence[Trouble] = ("unanswered", "truncated", "refused", "invalid")
_TOLD_BY = ("result_type", "stop_reason", "error_type", "output_tokens")
_CUT = {"max_tokens", "model_context_window_exceeded"}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Tally:
    """What the rows of a file of answers came to.

    Attributes:
        asked: Rows that have a prompt.
        result_types: Rows by `result_type`; "not_sent" for none.
        stop_reasons: Answered rows by `stop_reason`.
        troubles: How many rows each trouble has.
        first: The numbers of the first rows of each, counted from 0.
        output_tokens: Of each answer.
    """

    rows: int
    asked: int
    result_types: Mapping[str, int]
    stop_reasons: Mapping[str, int]
    troubles: Mapping[Trouble, int]
    first: Mapping[Trouble, Sequence[int]]
    output_tokens: npt.NDArray[np.int64]

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return self.asked - self.troubles["unanswered"]


def count(file: pq.ParquetFile, prefix: str) -> Tally:
    """Count what the rows of a file came to."""
    walk = _Walk()
    for batch in file.iter_batches(columns=[prefix + name for name in _TOLD_BY]):
        walk.add(zip(*(batch.column(prefix + name).to_pylist() for name in _TOLD_BY), strict=True))
    return walk.finish()


class _Walk:
    def __init__(self) -> None:
        self._rows = self._blank = 0
        self._results: Counter[str] = Counter(
            dict.fromkeys(("succeeded", "errored", "canceled", "expired", "not_sent"), 0)
        )
        self._stops: Counter[str] = Counter(dict.fromkeys(("end_turn", "max_tokens", "refusal"), 0))
        self._first: dict[Trouble, list[int]] = {trouble: [] for trouble in TROUBLES}
        self._troubles: Counter[Trouble] = Counter()
        self._lengths: list[int] = []

    def add(self, rows: Iterator[tuple[Any, ...]]) -> None:
        for result, stop, error, tokens in rows:
            self._results[result or "not_sent"] += 1
            self._blank += error == "missing_prompt"
            if result == "succeeded":
                self._stops[stop or "none"] += 1
                self._lengths.append(tokens or 0)
            for trouble in _troubles_of(result, stop, error):
                self._troubles[trouble] += 1
                if len(self._first[trouble]) < _SHOWN:
                    self._first[trouble].append(self._rows)
            self._rows += 1

    def finish(self) -> Tally:
        lengths = np.array(self._lengths, dtype=np.int64)
        asked = self._rows - self._blank
        return Tally(self._rows, asked, self._results, self._stops, self._troubles, self._first, lengths)


def _troubles_of(result: str | None, stop: str | None, error: str | None) -> Iterator[Trouble]:
    if result != "succeeded":
        if error != "missing_prompt":
            yield "unanswered"
        return
    if stop in _CUT:
        yield "truncated"
    if stop == "refusal":
        yield "refused"
    if error == "invalid_output":
        yield "invalid"


def rows_at(file: pq.ParquetFile, numbers: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield some rows of a file by their ascending numbers; only the row groups that hold one are read."""
    left, first = [*numbers], 0
    for group in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        here = [number - first for number in left if number < first + size]
        if here:
            yield from file.read_row_group(group, columns=list(columns)).take(here).to_pylist()
        left, first = left[len(here) :], first + size
