"""Data on stdout: tables on a terminal, aligned lines in a pipe, JSON when asked for."""

import json
import sys
import time
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from claude_pipeline import display
from claude_pipeline.status import Status

STYLES = {"in_progress": "cyan", "planning": "cyan", "ended": "green", "blocked": "yellow", "canceling": "yellow"}


def print_json(statuses: Status | Sequence[Status]) -> None:
    """Print one status as an object, several as an array."""
    data = statuses.to_dict() if isinstance(statuses, Status) else [status.to_dict() for status in statuses]
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_jobs(statuses: Sequence[Status]) -> None:
    """Print a line for each job; on a terminal too narrow for that its last columns share one that wraps."""
    table = [display.LIST_HEADER, *(display.job_cells(status) for status in statuses)]
    if sys.stdout.isatty() and max(map(len, display.columns(table))) > Console().width:
        table = [(*cells[:-3], " ".join(cells[-3:])) for cells in table]
    print_table(table[0], table[1:])


def print_status(status: Status) -> None:
    """Print what there is to say about one job, and its batches."""
    heading = "  ".join(part for part in (status.job_id, status.state, status.name, status.model) if part)
    Console(highlight=False).print(Text(heading, style="bold"), soft_wrap=True)
    if status.reason:
        click.echo(status.reason)
    click.echo(display.aligned([*display.facts(status), display.submitted(status)]))
    if status.batches:
        click.echo()
        print_table(display.BATCH_HEADER, display.batch_cells(status, now=time.time()))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print cells under a header, in colours that only a terminal gets to see."""
    if not sys.stdout.isatty():
        click.echo("\n".join(display.columns([header, *rows])))
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in header:
        wraps = heading in {header[-1], "BATCH"}  # its long ids are folded before a column is lost
        table.add_column(heading, justify=display.alignment(heading), no_wrap=not wraps, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(table)
