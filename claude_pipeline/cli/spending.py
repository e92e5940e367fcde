"""`costs` and `budget`: what was spent, and what may be."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

import claude_pipeline as cp
from claude_pipeline import display
from claude_pipeline.cli import options
from claude_pipeline.cli.output import print_table
from claude_pipeline.cli.shell import say
from claude_pipeline.status import total_usd

if TYPE_CHECKING:
    from claude_pipeline.drawing import Bar

_TOKENS, _DOLLARS = ("TOKENS IN", "TOKENS OUT"), ("COST", "LIST", "SAVED")
_HEADERS = {
    "day": ("DAY", "ANSWERS", *_TOKENS, *_DOLLARS),
    "model": ("MODEL", "ANSWERS", *_TOKENS, *_DOLLARS),
    "job": ("JOB", "ANSWERS", *_DOLLARS, "NAME"),  # tokens stand in `status`; here is room for a name
}
_KEYS = {"day": "day", "model": "model", "job": "job_id"}
_SANDBOX = "sandbox"
_Row = dict[str, Any]


@click.command(short_help="Tell what a store has cost.")
@click.option("--by", type=click.Choice(["day", "model", "job"]), default="day", help="Default: day.")
@click.option("--since", metavar="DAY", help="The first day, such as 2026-11-01 (UTC).")
@click.option("--until", metavar="DAY", help="The last day.")
@click.option("--out", metavar="PATH", help="Draw a picture here: .png, .svg or .pdf.")
@options.store
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
def costs(
    *,
    by: str,
    since: str | None,
    until: str | None,
    out: str | None,
    store: str | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Tell what the answers of a store have cost, by day, by model or by job.

    COST was paid; LIST is the same at list price, which streamed answers cost
    and batches halve. An answer counts on the day (UTC) on which it came into
    the store; what was pruned counts as well.

    \b
      claude-pipeline costs --since 2026-11-01 --until 2026-11-30
      claude-pipeline costs --by model --out costs.png
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    if out is not None:
        _check_picture(out)
    table = cp.costs(by=by, since=since, until=until, store=store, ledger=ledger)  # type: ignore[arg-type]  # checked
    rows = table.to_pylist()
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False, default=str))
    elif rows:
        _print(rows, by)
    else:
        say("Nothing was answered then." if since or until else "Nothing was answered yet.")
    if out is not None and rows:
        _draw(rows, by, out)
        say(f"Drew {out}")


def _accounts(rows: Sequence[_Row]) -> Iterator[tuple[str, list[_Row]]]:
    for account, theirs in groupby(rows, key=lambda row: str(row["account"])):
        yield account, list(theirs)


def _print(rows: Sequence[_Row], by: str) -> None:
    accounts = list(_accounts(rows))
    for place, (account, theirs) in enumerate(accounts):
        if len(accounts) > 1:
            click.echo(f"{'' if not place else chr(10)}Account {account}")
        cells = [_cells(row, by) for row in theirs]
        total = _cells(_total(theirs) | {_KEYS[by]: "total", "name": ""}, by)
        print_table(_HEADERS[by], [*cells, total] if len(cells) > 1 else cells)
    if any(account == _SANDBOX for account, _ in accounts):
        say("The sandbox costs nothing; its figures are what the API would have taken.")


def _cells(row: _Row, by: str) -> tuple[str, ...]:
    tokens_in = row["input_tokens"] + row["cache_read_tokens"] + row["cache_write_tokens"]
    tokens = [] if by == "job" else [display.count(tokens_in), display.count(row["output_tokens"])]
    dollars = (display.usd(row[name]) or "?" for name in ("cost_usd", "list_usd", "saved_usd"))
    names = ["-" if row["name"] is None else row["name"]] if by == "job" else []
    return (str(row[_KEYS[by]]), display.count(row["answers"]), *tokens, *dollars, *names)


def _total(rows: Sequence[_Row]) -> _Row:
    counted = ("answers", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    paid = ("cost_usd", "list_usd", "saved_usd")
    sums: _Row = {name: sum(row[name] for row in rows) for name in counted}
    return sums | {name: total_usd(row[name] for row in rows) for name in paid}


def _check_picture(out: str) -> None:
    from claude_pipeline.drawing import check_picture  # noqa: PLC0415  only who draws needs it

    check_picture(out)


def _draw(rows: Sequence[_Row], by: str, out: str) -> None:
    from claude_pipeline.drawing import draw_bars  # noqa: PLC0415  only who draws needs it

    charts = {}
    for account, theirs in _accounts(rows):
        paid = display.usd(_total(theirs)["cost_usd"]) or "?"
        nothing = " that the API would have taken" if account == _SANDBOX else ""
        charts[f"{paid}{nothing}, by {by} (account {account})"] = _bars(theirs, by)
    draw_bars(out, charts, upright=by == "day")


def _bars(rows: Sequence[_Row], by: str) -> list["Bar"]:
    """Make a bar of each row; a day without one has an empty bar."""
    from claude_pipeline.drawing import Bar  # noqa: PLC0415  only who draws needs it

    bars = {row[_KEYS[by]]: Bar(_label(row, by), row["cost_usd"] or 0.0, row["saved_usd"] or 0.0) for row in rows}
    if by != "day":
        return list(bars.values())
    days = (min(bars) + timedelta(days=number) for number in range((max(bars) - min(bars)).days + 1))
    return [bars.get(day, Bar(str(day), 0.0, 0.0)) for day in days]


def _label(row: _Row, by: str) -> str:
    label = row["name"] or row["job_id"] if by == "job" else str(row[_KEYS[by]])
    return label if row["cost_usd"] is not None else f"{label} (unknown)"
