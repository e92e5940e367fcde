"""`stream`: a few rows answered now, as they are said."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, time
from typing import Any, Unpack

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

import claude_pipeline as cp
from claude_pipeline import display
from claude_pipeline.cli import options
from claude_pipeline.cli.brief import BriefCommand
from claude_pipeline.cli.options import Place
from claude_pipeline.cli.requesting import Answers, Requesting, answering, check_prompt, requesting
from claude_pipeline.cli.shell import UNANSWERED, say, stop
from claude_pipeline.cli.waiting import written

Hear = Callable[[int, str], None]
Note = Callable[[int, dict[str, Any]], None]

_STYLES = {"✓": "green", "✗": "red", "!": "yellow", "→": "cyan", "…": "cyan"}


class Streaming(Requesting, Answers):
    """What `cp.stream` takes from the command line."""

    max_concurrency: int
    in_order: bool
    idle_timeout: float


@click.command(cls=BriefCommand, short_help="Ask a few rows now, and read the answers as they come.")
@requesting
@answering
@click.option(
    "--concurrency",
    "max_concurrency",
    default=8,
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows at once, default 8.",
)
@click.option("--in-order", is_flag=True, help="Show rows in the order of the input.")
@click.option(
    "--idle-timeout",
    default=120.0,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up a silent connection, default 120.",
)
@click.option("--events", is_flag=True, help="Print the API's events as JSON lines instead of rows.")
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON lines, also on a terminal.")
@click.option("--out", metavar="PATH", help="Write the table with its answers here: .parquet or .csv.")
@options.place
def stream(
    *, source: tuple[str, ...], events: bool, as_json: bool, out: str | None, **settings: Unpack[Streaming]
) -> None:
    """Ask the rows of SOURCE now, at list price, and show the answers as they come.

    For a look at ten rows before a night of 200,000: what is answered here, no
    batch pays for again. On a terminal the text grows before your eyes, row by
    row with --concurrency 1; in a pipe each row is a line of JSON.

    \b
      claude-pipeline stream reviews.parquet --limit 10 \\
        --template "Label the sentiment: {text}" \\
        --model claude-haiku-4-5 --max-tokens 16 --out preview.parquet
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    check_prompt(settings)
    if out is not None:
        cp.check_output(out)
    show = _chosen(events=events, as_json=as_json, one_by_one=settings["max_concurrency"] == 1)
    with show() as (hear, note, take):
        rows = cp.stream(source[0] if len(source) == 1 else list(source), on_text=hear, on_event=note, **settings)
        try:
            with rows:
                for row in rows:
                    take(row)
        except KeyboardInterrupt as interruption:
            say(f"Interrupted. What is complete is kept in {rows.job.job_id}; the same command goes on with the rest.")
            stop(interruption)
    _report(rows.job, Place(settings["store"], settings["ledger"], settings["base_url"]), out)


def _report(job: "cp.Job", place: Place, out: str | None) -> None:
    status = job.status()
    if out is not None:
        written(job, out)
    say(display.one_line(status))
    if out is None:
        say(f"Write the answers: {place.command('write', job.job_id)} --out PATH")
    if status.unanswered:
        say(f"{display.plural(status.unanswered, 'row')} without an answer: the same command asks them again.")
        raise click.exceptions.Exit(UNANSWERED)


Shown = tuple[Hear | None, Note | None, Callable[["cp.StreamedRow"], None]]


def _chosen(*, events: bool, as_json: bool, one_by_one: bool) -> Callable[[], Any]:
    if events:
        return _as_events
    if as_json or not sys.stdout.isatty():
        return _as_lines
    return _one_by_one if one_by_one else _as_table


@contextmanager
def _as_events() -> Iterator[Shown]:
    yield None, lambda row, event: click.echo(_json({"row": row + 1, "event": event})), lambda _row: None


@contextmanager
def _as_lines() -> Iterator[Shown]:
    yield None, None, lambda row: click.echo(_json(asdict(row) | {"row": row.row + 1}))


@contextmanager
def _one_by_one() -> Iterator[Shown]:
    """Print each text as it comes, under a line that names its row."""
    console = Console(highlight=False)
    heard: set[int] = set()

    def begin(row: int) -> None:
        if row not in heard:
            heard.add(row)
            console.print(Text(f"── row {row + 1:,} ", style="cyan"))

    def hear(row: int, text: str) -> None:
        begin(row)
        click.echo(text, nl=False)

    def note(_row: int, event: dict[str, Any]) -> None:
        if event["type"] == "retry" and not event["continues"]:
            console.print(Text("\n(broken off; beginning again)", style="yellow"))

    def take(row: cp.StreamedRow) -> None:
        said = row.row in heard
        begin(row.row)
        click.echo("" if said else row.response or f"{row.error_type}: {row.error_message}")

    yield hear, note, take


@contextmanager
def _as_table() -> Iterator[Shown]:
    """Draw the rows that are under way and the last that are done."""
    from claude_pipeline.watching import Watch  # noqa: PLC0415  loads Arrow

    watch = Watch()
    board = _Board(watch)
    with Live(board, console=Console(highlight=False), redirect_stdout=False, redirect_stderr=False):
        yield watch.hear, watch.note, watch.take


class _Board:
    """A watch as a table, as wide and as high as the terminal."""

    def __init__(self, watch: Any) -> None:  # noqa: ANN401  a Watch, which loads Arrow
        self._watch = watch

    def __rich_console__(self, console: Console, _options: object) -> Iterator[RenderableType]:
        """Draw it as it is this moment."""
        grid = Table.grid(padding=(0, 1))
        for justify in ("right", "left", "left"):
            grid.add_column(justify=justify, no_wrap=True)
        for number, state, text in self._watch.lines(max(3, console.height - 3), width=max(20, console.width - 10)):
            grid.add_row(Text(f"{number:,}", style="dim"), Text(state, style=_STYLES[state]), Text(text))
        yield Group(Text(self._watch.head(), style="dim"), grid)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    return value.isoformat() if isinstance(value, date | time) else str(value)
