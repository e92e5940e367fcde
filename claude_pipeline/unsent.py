"""Rows that cannot be sent: which ones, how many, and why."""

from contextlib import suppress

import pyarrow as pa

from claude_pipeline.status import Refusal
from claude_pipeline.values import Unsendable


def name_row(batch: pa.RecordBatch, row: int, *, first: int, id_column: str | None) -> str:
    """Name a row by its position in the input, from 1, and its id; the batch begins with the row `first`."""
    number = f"Row {row + 1:,}"
    if id_column is not None:
        with suppress(UnicodeDecodeError):
            return f"{number} ({id_column} {batch.column(id_column)[row - first].as_py()!r})"
    return number


class Unsent:
    """Counts rows that cannot be sent by their reason, and keeps what is said of the first of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, why: Unsendable) -> None:
        """Count a row, whose message names it."""
        rows, example = self._found.get(why.error_type, (0, why.error_message))
        self._found[why.error_type] = rows + 1, example

    @property
    def refusals(self) -> list[Refusal]:
        """List the reasons in the order in which they were met."""
        return [Refusal(kind, rows, example) for kind, (rows, example) in self._found.items()]
