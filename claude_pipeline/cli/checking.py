"""`doctor`: a check-up for people and for monitors."""

import json
import shutil
import sys
import textwrap
from dataclasses import asdict
from itertools import groupby

import click

import claude_pipeline as cp
from claude_pipeline.cli import options
from claude_pipeline.cli.shell import UNANSWERED
from claude_pipeline.display import count

_WORD_COLORS = {"info": "bright_black", "warning": "yellow", "error": "red", "repaired": "green"}
_INDENT = len("repaired") + 4
_WIDEST = 100
_MOST_ALIKE = 10


@click.command(short_help="Check a store: ledger, files, API; repair it.")
@click.option("--fix", is_flag=True, help="Repair what costs and loses nothing.")
@click.option("--thorough", is_flag=True, help="Read every file to its end.")
@click.option("--give-up-lost", is_flag=True, help="With --fix: ask again, and pay again, what is lost for good.")
@options.place
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def doctor(
    *,
    fix: bool,
    thorough: bool,
    give_up_lost: bool,
    store: str | None,
    ledger: str | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Check a store: its ledger against its files against the API.

    Without --fix nothing is changed. With it nothing is sent or paid for: shards
    in doubt are settled, what ended is collected, results that are missing here
    and kept at the API are fetched again.

    \b
    Exit codes, for monitors:
      0 all is well, or was repaired · 3 something needs a person
      1 the check-up failed: no store, or the API could not be asked

    \b
      claude-pipeline doctor
      claude-pipeline doctor --fix
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    if give_up_lost and not fix:
        raise click.UsageError("--give-up-lost goes with --fix.")
    checkup = cp.doctor(
        store=store, ledger=ledger, base_url=base_url, fix=fix, thorough=thorough, give_up_lost=give_up_lost
    )
    if as_json:
        judged = {"is_complete": checkup.is_complete, "needs_somebody": checkup.needs_somebody}
        click.echo(json.dumps(asdict(checkup) | judged, indent=2, ensure_ascii=False))
    else:
        _print(checkup)
    if checkup.needs_somebody:
        raise click.exceptions.Exit(UNANSWERED)
    if not checkup.is_complete:
        raise click.exceptions.Exit(1)


def _print(checkup: "cp.Checkup") -> None:
    click.echo(checkup.heading())
    for area, findings in groupby(checkup.findings, key=lambda finding: finding.area):
        click.echo(f"\n{click.style(area.upper(), dim=True)}")
        for _, alike in groupby(sorted(findings, key=_kind), key=_kind):
            first = list(alike)
            for finding in first[:_MOST_ALIKE]:
                click.echo(_line(finding))
            if len(first) > _MOST_ALIKE:
                click.echo(f"{' ' * _INDENT}… and {count(len(first) - _MOST_ALIKE)} more like it; --json has them all.")
    click.echo(f"\n{checkup.verdict()}")


def _kind(finding: "cp.Finding") -> tuple[str, bool]:
    return finding.kind, finding.is_repaired


def _line(finding: "cp.Finding") -> str:
    """Write a finding; on a terminal as wide as that, else in one line."""
    words = str(finding)
    if sys.stdout.isatty():
        width = min(_WIDEST, shutil.get_terminal_size().columns)
        lines = textwrap.wrap(words, width - _INDENT, break_long_words=False, break_on_hyphens=False)
        words = f"\n{' ' * _INDENT}".join(lines)
    return f"  {click.style(finding.word.ljust(_INDENT - 2), fg=_WORD_COLORS[finding.word])}{words}"
