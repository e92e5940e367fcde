"""A stream while it is watched: one line a row, its text growing, tokens and cost so far."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Unpack

from claude_pipeline.cards import framed
from claude_pipeline.display import count, duration, usd
from claude_pipeline.progress import Live, this_cell
from claude_pipeline.sources import Source
from claude_pipeline.status import total_usd
from claude_pipeline.streamed import StreamedRow
from claude_pipeline.streaming import StreamOptions, stream

if TYPE_CHECKING:
    import pandas as pd

_LINES, _WIDTH = 12, 110
_SECONDS_BETWEEN = 0.2


class Line(NamedTuple):
    """What is shown of a row: its number, counted from 1, how it stands, and its text on one line."""

    number: int
    state: str
    text: str


@dataclass(slots=True)
class Watch:
    """What has been heard of a run so far."""

    begun_at: float = field(default_factory=time.monotonic)
    done: dict[int, StreamedRow] = field(default_factory=dict)
    _said: dict[int, str] = field(default_factory=dict)

    def hear(self, row: int, text: str) -> None:
        """Take a piece of a row's text."""
        self._said[row] = self._said.get(row, "") + text

    def note(self, row: int, event: dict[str, Any]) -> None:
        """Forget what was said of a row that begins anew."""
        if event["type"] == "retry" and not event["continues"]:
            self._said[row] = ""

    def take(self, row: StreamedRow) -> None:
        """Take a row that is done."""
        self.done[row.row] = row
        self._said.pop(row.row, None)

    def head(self) -> str:
        """Say in one line how far the run is, and what it has cost."""
        rows = self.done.values()
        tokens = sum(row.output_tokens or 0 for row in rows if row.seconds_to_first_token is not None)
        cost = total_usd(row.cost_usd for row in rows if row.result_type)
        parts = [f"{count(len(rows))} done", f"{count(len(self._said))} under way", f"{count(tokens)} tokens"]
        return " · ".join([*parts, usd(cost) or "?", duration(time.monotonic() - self.begun_at)])

    def lines(self, most: int = _LINES, *, width: int = _WIDTH) -> list[Line]:
        """Return the rows under way and the last that are done, in the order of the input."""
        room = max(0, most - len(self._said))
        ended = list(self.done.values())[-room:] if room else []
        lines = [Line(row + 1, "…", _tail(text, width)) for row, text in list(self._said.items())[:most]]
        return sorted([*lines, *(Line(row.row + 1, *_came_to(row, width)) for row in ended)])


def _came_to(row: StreamedRow, width: int) -> tuple[str, str]:
    if row.is_in_progress:
        return "→", f"in progress{f' in batch {row.batch_id}' if row.batch_id else ''}"
    if row.result_type != "succeeded":
        return "✗", _head(f"{row.error_type}: {row.error_message}", width)
    return "✓" if row.error_type is None else "!", _head(row.response or "", width)


def _head(text: str, width: int) -> str:
    line = " ".join(text[: 4 * width].split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _tail(text: str, width: int) -> str:
    line = " ".join(text[-4 * width :].split())
    return line if len(line) <= width else f"…{line[1 - width :]}"


class View(Protocol):
    """What shows a watch."""

    def draw(self) -> None:
        """Show how it stands, unless it was shown a moment ago."""

    def end(self) -> None:
        """Show how it ended."""


class NotebookView:
    """A card under the cell, drawn anew a few times a second."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._drawn_at, self._live = watch, time.monotonic(), Live()
        self._show()

    def draw(self) -> None:
        """Show how it stands, unless it was shown a moment ago."""
        if time.monotonic() - self._drawn_at >= _SECONDS_BETWEEN:
            self._show()

    def end(self) -> None:
        """Leave the last line of figures."""
        self._show(most=0)

    def _show(self, most: int = _LINES) -> None:
        self._drawn_at = time.monotonic()
        head = self._watch.head()
        rows = "".join(map(_row, self._watch.lines(most)))
        self._live.show(framed(f"<div>{escape(head)}</div>{rows}"), head)


def _row(line: Line) -> str:
    number = f'<span style="flex:none;width:3em;text-align:right;opacity:.6">{line.number:,}</span>'
    state = f'<span style="flex:none;width:1.2em">{line.state}</span>'
    return f'<div style="display:flex;gap:8px">{number}{state}<span>{escape(line.text)}</span></div>'


class PlainView:
    """A line on stderr for each row that is done, where somebody sees it."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._shown, self._seen = watch, set[int](), sys.stderr.isatty()

    def draw(self) -> None:
        """Print the rows that are done since the last time."""
        for row in [*self._watch.done.keys() - self._shown] if self._seen else ():
            self._shown.add(row)
            state, text = _came_to(self._watch.done[row], _WIDTH)
            print(f"{row + 1:>5}  {state}  {text}", file=sys.stderr)  # noqa: T201

    def end(self) -> None:
        """Print the last of it, and what it came to."""
        self.draw()
        if self._seen:
            print(self._watch.head(), file=sys.stderr)  # noqa: T201


@contextmanager
def watching(view: View) -> Iterator[None]:
    """Show a watch until the body is done, however it ends."""
    try:
        yield
    finally:
        view.end()


def stream_frame(source: Source, **options: Unpack[StreamOptions]) -> "pd.DataFrame":
    """Stream a small table, show its rows while they are answered, and return it with its answers.

    In a notebook there is a line a row whose text grows; on a terminal, a line when a row is done.

    Args:
        source: The table, as for `stream`.
        **options: See `stream`.

    Raises:
        PipelineError: See `stream`; what is complete is in the store.
    """
    watch = Watch()
    view: View = NotebookView(watch) if this_cell() is not None else PlainView(watch)
    on_text, on_event = options.get("on_text"), options.get("on_event")

    def hear(row: int, text: str) -> None:
        watch.hear(row, text)
        view.draw()
        if on_text:
            on_text(row, text)

    def note(row: int, event: dict[str, Any]) -> None:
        watch.note(row, event)
        if on_event:
            on_event(row, event)

    watched: StreamOptions = {**options, "on_text": hear, "on_event": note}
    with watching(view), stream(source, **watched) as rows:
        for row in rows:
            watch.take(row)
            view.draw()
    return rows.job.to_pandas()
