"""`failed` and `ask-again`: the rows that did not come to what was asked for, and asking rows afresh."""

import json
import re
from collections.abc import Sequence
from typing import Literal

import click

import claude_pipeline as cp
from claude_pipeline import display
from claude_pipeline.cli import options
from claude_pipeline.cli.live import progress
from claude_pipeline.cli.options import Place
from claude_pipeline.cli.output import print_json, print_table
from claude_pipeline.cli.shell import confirm, leave, say
from claude_pipeline.cli.waiting import next_step

Which = Literal["failed", "truncated"]

_SHOWN = 50
_SPAN = re.compile(r"(\d{1,15})(?:-(\d{1,15}))?")
_MOST_ROWS = 10_000_000


@click.command(short_help="Show the rows without an answer, and why.")
@options.job_argument
@click.option("--out", metavar="PATH", help="Write the rows with their columns here: .parquet or .csv.")
@options.place
@click.option("--json", "as_json", is_flag=True, help="Print rows and errors as JSON on stdout.")
def failed(
    *, job_id: str, out: str | None, store: str | None, ledger: str | None, base_url: str | None, as_json: bool
) -> None:
    """Show the rows of JOB that have no answer, counted from 1, and why.

    `resume` asks in place again what may succeed now, and pays for nothing
    twice. `ask-again` asks chosen rows in a job of their own.

    \b
      claude-pipeline failed job_td7eocqpecwxdsxe --out failed.csv
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    if out is not None:
        cp.check_output(out)
    picked = Place(store, ledger, base_url).open(job_id).pick("failed")
    errors = [(row + 1, kind, message) for row, kind, message in picked.errors]
    if out is not None:
        picked.write(out)
        say(f"Wrote {display.plural(len(errors), 'row')} to {out}")
    elif as_json:
        keys = ("row", "error_type", "error_message")
        click.echo(json.dumps([dict(zip(keys, error, strict=True)) for error in errors], indent=2, ensure_ascii=False))
    else:
        _show(errors)


def _show(errors: Sequence[tuple[int, str, str]]) -> None:
    if not errors:
        say("No row failed.")
        return
    print_table(("ROW", "ERROR", "MESSAGE"), [_cells(*error) for error in errors[:_SHOWN]])
    if len(errors) > _SHOWN:
        say(f"… and {display.count(len(errors) - _SHOWN)} more. --out PATH writes them all.")


def _cells(row: int, kind: str, message: str) -> tuple[str, str, str]:
    """Write a row's number once: a message may begin with it, and with the row's id in parentheses."""
    number = display.count(row)
    return number, kind, message.removeprefix(f"Row {number}").removeprefix(":").strip()


class _Spans(click.ParamType[list[int]]):
    name = "rows"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Read numbers and spans, counted from 1, as positions from 0."""
        positions: list[int] = []
        for part in str(value).split(","):
            found = _SPAN.fullmatch(part.strip())
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
            if not 1 <= first <= last or last - first > _MOST_ROWS:
                self.fail(f"{part.strip()!r} is no row. Give rows counted from 1, such as 3,17,20-25.", param, ctx)
            positions += range(first - 1, last)
        return positions


@click.command("ask-again", short_help="Ask chosen rows of a job afresh, and pay again.")
@options.job_argument
@click.option("--rows", type=_Spans(), metavar="ROWS", help="Counted from 1, such as 3,17,20-25.")
@click.option("--failed", "which", flag_value="failed", help="The rows without an answer.")
@click.option("--truncated", "which", flag_value="truncated", help="The rows cut off at max_tokens.")
@click.option("--salt", metavar="TEXT", help="Another salt asks the same rows once more.")
@click.option("--name", metavar="TEXT", help="What `list` calls the new job.")
@click.option(
    "--max-cost-usd", type=click.FloatRange(min=0, min_open=True), metavar="USD", help="The most that it may cost."
)
@click.option("--yes", is_flag=True, help="Do not ask whether to go on.")
@options.place
@options.as_json
def ask_again(
    *,
    job_id: str,
    rows: list[int] | None,
    which: Which | None,
    salt: str | None,
    name: str | None,
    max_cost_usd: float | None,
    yes: bool,
    store: str | None,
    ledger: str | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Ask rows of JOB afresh in a new job, and pay for them again; JOB keeps its answers.

    What it will cost is shown first. The same rows are the same new job, which
    is not paid for twice. `resume` asks rows without an answer in place.

    \b
      claude-pipeline ask-again job_7f3k --rows 3,17,20-25
      claude-pipeline ask-again job_7f3k --truncated --yes
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    if (rows is None) == (which is None):
        raise click.UsageError("Give one of --rows, --failed and --truncated.")
    place = Place(store, ledger, base_url)
    job = place.open(job_id)
    chosen = _picked(job, which) if which else rows or []
    with progress("Estimating"):
        estimate = job.estimate_again(chosen, salt=salt)
    say(str(estimate))
    confirm("Ask these rows, and pay for them?", yes=yes)
    again = job.ask_again(chosen, max_cost_usd=max_cost_usd, salt=salt, name=name)
    status = again.status()
    if as_json:
        print_json(status)
    else:
        click.echo(again.job_id)
    say(next_step(status, place))
    if status.state == "blocked":
        leave(status)


def _picked(job: "cp.Job", which: Which) -> list[int]:
    positions: list[int] = job.pick(which).positions.tolist()
    if not positions:
        say(f"{job.job_id} has no {which} rows; there is nothing to ask.")
        raise click.exceptions.Exit(0)
    return positions
