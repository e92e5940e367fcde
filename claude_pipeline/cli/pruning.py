"""`prune`: what is kept no longer, shown before it goes."""

import json
from dataclasses import asdict

import click

import claude_pipeline as cp
from claude_pipeline import display
from claude_pipeline.cli import options
from claude_pipeline.cli.output import print_table
from claude_pipeline.cli.shell import confirm, say

_HEADER = ("JOB", "ENDED", "ROWS", "PAYS AGAIN", "FREES", "NAME")
_SHOWN = 50


@click.command(short_help="Remove old inputs and answers, or batches at the API.")
@click.option("--older-than", metavar="AGE", help="Jobs that ended that long ago, such as 30d, 12h or 4w.")
@click.option("--batches-older-than", metavar="AGE", help="At the API, batches collected that long ago.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@click.option("--yes", is_flag=True, help="Do not ask whether to go on.")
@options.place
@click.option("--json", "as_json", is_flag=True, help="Print what goes as JSON on stdout.")
def prune(
    *,
    older_than: str | None,
    batches_older_than: str | None,
    dry_run: bool,
    yes: bool,
    store: str | None,
    ledger: str | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Remove the input and the answers of jobs that ended, and were last submitted,
    that long ago. What other jobs need stays; what it has cost stays on record.

    \b
      claude-pipeline prune --older-than 30d
      claude-pipeline prune --batches-older-than 1d --yes
    """  # noqa: D205, D301  # click keeps the lines after a backspace as they are
    if older_than is None and batches_older_than is None:
        raise click.UsageError("Give --older-than, --batches-older-than or both.")
    place = {"store": store, "ledger": ledger, "base_url": base_url}
    ages = {"older_than": older_than, "batches_older_than": batches_older_than}
    found = cp.prune(**ages, dry_run=True, **place)  # type: ignore[arg-type]  # each is what its name says
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        _show(found)
    if not found:
        say("Nothing is that old.")
    elif not dry_run:
        confirm("Remove all this for good?", yes=yes)
        cp.prune(**ages, **place)  # type: ignore[arg-type]  # the same
        say("Done.")


def _show(found: "cp.Pruned") -> None:
    if found.jobs:
        print_table(_HEADER, [_cells(job) for job in found.jobs[:_SHOWN]])
    if len(found.jobs) > _SHOWN:
        say(f"… and {display.count(len(found.jobs) - _SHOWN)} more.")
    for words in _words(found):
        say(words)


def _cells(job: "cp.PrunedJob") -> tuple[str, ...]:
    cost = display.usd(job.cost_usd) or "?"
    return (
        job.job_id,
        display.day(job.ended_at),
        display.count(job.rows),
        cost,
        display.size(job.bytes),
        job.name or "-",
    )


def _words(found: "cp.Pruned") -> list[str]:
    plural, cost = display.plural, display.usd(found.cost_usd) or "an unknown amount"
    freed = f"{display.size(found.bytes)}: {plural(len(found.jobs), 'job')}, {plural(found.answers, 'file')} of answers"
    batches, foreign = plural(len(found.batches), "batch"), plural(found.foreign_batches, "batch")
    words = [
        (found.bytes, f"Frees {freed}."),
        (found.shared, f"{plural(found.shared, 'file')} of their answers stay, which other jobs need."),
        (found.answers, f"To submit the same rows later asks them again, and pays again: these have cost {cost}."),
        (len(found.batches), f"Deletes {batches} at the API. What the store has of them is not touched by that."),
        (found.foreign_batches, f"{foreign} of another account cannot be deleted with these credentials."),
    ]
    return [said for number, said in words if number]
