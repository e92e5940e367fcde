"""Progress on stderr: a live board on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from claude_pipeline import display, outlook
from claude_pipeline.cli.output import STYLES
from claude_pipeline.cli.shell import log_format
from claude_pipeline.logs import heard
from claude_pipeline.status import RequestCounts, Status

OnStatus = Callable[[Status], None]

_BATCHES = 8  # with the lines above them they fit the smallest terminal
_BATCH_HEADER = ("BATCH", "STATE", "REQUESTS", "AGE", "TOOK")

# Each state has a colour and a shape, so that the bar reads without colours too.
_LOOKS = {
    "succeeded": ("green", "█", "#"),
    "errored": ("red", "▚", "x"),
    "expired": ("red", "▚", "x"),
    "canceled": ("yellow", "▚", "x"),
    "processing": ("cyan", "▒", "="),
    "waiting": ("bright_black", "░", "-"),
}


@contextmanager
def progress(doing: str) -> Iterator[OnStatus]:
    """Show `doing` until the first status is shown, then the latest status."""
    if log_format():
        yield _unseen
        return
    console = Console(stderr=True, highlight=False)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield Lines().show
        return
    board = Board(doing)
    # Redirection would send what is printed on stdout to stderr.
    live = Live(board, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with live, heard(Ear(board.hear), level="debug"):
        yield board.show


def _unseen(_status: Status) -> None:
    """Leave it to the log."""


class Lines:
    """One line whenever something has changed."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, status: Status) -> None:
        """Print the status unless the last line said the same."""
        line = display.full_line(status)
        if line != self._last:
            when = outlook.expected(status, now=time.time())
            click.echo(f"{line} · {when}" if when else line, err=True)
        self._last = line


class Ear(logging.Handler):
    """Hears of what the library does."""

    def __init__(self, hear: Callable[[str, Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on an event and its fields."""
        self._hear(vars(record).get("event", ""), vars(record))


class Board:
    """The latest status, and what is being done; drawn anew several times a second so that time passes."""

    def __init__(self, doing: str) -> None:
        self._doing, self._step, self._planned = doing, "", 0
        self._spinner = Spinner("dots", doing)
        self._status: Status | None = None

    def hear(self, event: str, told: Mapping[str, Any]) -> None:
        """Note what is being done now."""
        match event:
            case "batch.planned":
                self._planned += told["requests"]
                self._step = f"{display.plural(self._planned, 'request')} planned so far"
            case "batch.uploading":
                part = f"{display.size(told['sent'])} of {display.size(told['bytes'])}"
                self._step = f"uploading a batch of {display.plural(told['requests'], 'request')}, {part}"
            case "batch.ended":
                self._step = f"collecting {told['batch_id']}"
            case "job.planned" | "batch.sent" | "batch.refused" | "batch.collected":
                self._step = ""

    def show(self, status: Status) -> None:
        """Draw this status from now on."""
        self._status = status

    def __rich__(self) -> RenderableType:
        """Draw the board as it is this moment."""
        if self._status is None:
            self._spinner.update(text=f"{self._doing}: {self._step}" if self._step else self._doing)
            return self._spinner
        drawn = board(self._status, now=time.time())
        return Group(drawn, Text(f"Now {self._step}", style="dim")) if self._step else drawn


def board(status: Status, *, now: float) -> RenderableType:
    """Draw a status: who, a bar of requests by state, figures, the batches; `now` in seconds since the epoch."""
    elapsed = display.duration((status.ended_at or now) - status.created_at)
    lines: list[RenderableType] = [
        _edges(Text.assemble((status.job_id, "bold"), _asked(status)), Text(elapsed)),
        Bar(status.counts),
        _edges(_legend(status.counts), Text(display.percent(status))),
        Text(_figures(status)),
    ]
    if when := outlook.expected(status, now=now):
        lines.append(Text(when, style="dim"))
    if status.reason:
        lines.append(Text(status.reason, style="yellow" if status.state == "blocked" else "dim"))
    if status.batches:
        lines += [Text(), *_batches(status, now)]
    return Group(*lines)


def _batches(status: Status, now: float) -> Iterator[RenderableType]:
    """Draw a few batches in the order they were sent; on a narrow terminal their ids are cut, and nothing else."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in _BATCH_HEADER:
        is_id = heading == _BATCH_HEADER[0]
        table.add_column(heading, justify=display.alignment(heading), no_wrap=not is_id, overflow="ellipsis")
    shown = outlook.nearest(status.batches, most=_BATCHES)
    for batch in sorted(shown, key=attrgetter("created_at")):
        age = display.duration(now - batch.created_at)
        took = "-" if batch.ended_at is None else display.duration(batch.ended_at - batch.created_at)
        state = Text(batch.processing_status, style=STYLES.get(batch.processing_status, ""))
        table.add_row(Text(batch.batch_id), state, display.count(batch.requests), age, took)
    yield table
    if more := len(status.batches) - len(shown):
        yield Text(f"… and {display.plural(more, 'more batch')}", style="dim")


class Bar:
    """A bar of the console's width in which each state of requests has its share."""

    def __init__(self, counts: RequestCounts) -> None:
        self._counts = counts

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Draw the bar as wide as it may be."""
        yield bar(self._counts, width=options.max_width, ascii_only=options.ascii_only)


def bar(counts: RequestCounts, *, width: int, ascii_only: bool = False) -> Text:
    """Draw the shares of the states in `width` cells, at least one cell for each that is not empty."""
    text = Text(no_wrap=True)
    for state, cells in shares(counts, width=width):
        colour, shape, plain = _LOOKS[state]
        text.append((plain if ascii_only else shape) * cells, style=colour)
    return text


def shares(counts: RequestCounts, *, width: int) -> list[tuple[str, int]]:
    """Divide `width` cells among the states that are not empty: by size, and at least one for each."""
    present = [(state, number) for state, number in display.by_state(counts) if number]
    spare = width - len(present)
    total = sum(number for _, number in present)
    divided, reached, given = [], 0, 0
    for state, number in present:
        reached += number
        cells = spare * reached // total - given
        given += cells
        divided.append((state, 1 + cells))
    return divided


def _edges(left: Text, right: Text) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_row(left, right)
    return grid


def _asked(status: Status) -> str:
    return "".join(f"  {part}" for part in (status.name, status.model) if part)


def _legend(counts: RequestCounts) -> Text:
    parts = [
        Text(f"{display.count(number)} {state}", style=_LOOKS[state][0])
        for state, number in display.by_state(counts)
        if number
    ]
    return Text(" · ").join(parts)


def _figures(status: Status) -> str:
    parts = [f"batches: {display.batches(status)}", f"tokens: {display.tokens(status)}"]
    parts.append(f"cost so far: {display.usd(status.cost_usd) or '?'}")
    return " · ".join(parts)
