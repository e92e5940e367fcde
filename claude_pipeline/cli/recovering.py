"""`recover`: what was paid for in the last 29 days, back into a store."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click
from rich.console import Console

import claude_pipeline as cp
from claude_pipeline.cli import options
from claude_pipeline.cli.output import print_table
from claude_pipeline.cli.shell import UNANSWERED, say
from claude_pipeline.display import plural
from claude_pipeline.recovered import HEADER


@click.command(short_help="Read the workspace's ended batches back into a store.")
@click.option("--dry-run", is_flag=True, help="Show what would be regained, and record nothing.")
@options.place
@click.option("--json", "as_json", is_flag=True, help="Print what was regained as JSON on stdout.")
def recover(*, dry_run: bool, store: str | None, ledger: str | None, base_url: str | None, as_json: bool) -> None:
    """Read the ended batches of the workspace that claude-pipeline sent back into a store.

    For when a store is lost: the API keeps results for 29 days. The same submit
    as then finds its answers, and sends only what has none. Nothing is paid.
    Exit code 3: a batch could not be read, and the last lines say why.

    \b
      claude-pipeline recover --dry-run
      claude-pipeline recover --store regained
    """  # noqa: D301  # click keeps the lines after a backspace as they are
    with _telling() as tell:
        recovery = cp.recover(store=store, ledger=ledger, base_url=base_url, dry_run=dry_run, on_batch=tell)
    if as_json:
        totals = {name: getattr(recovery, name) for name in ("regained", "cost_usd", "paid_twice", "paid_twice_usd")}
        click.echo(json.dumps(asdict(recovery) | totals, indent=2, ensure_ascii=False))
    elif recovery.batches:
        print_table(HEADER, [batch.cells() for batch in recovery.batches])
    for sentence in recovery.sentences():
        say(sentence)
    if recovery.notes:
        raise click.exceptions.Exit(UNANSWERED)


@contextmanager
def _telling() -> Iterator[Callable[["cp.RecoveredBatch"], None]]:
    """Count what was read: in one line that goes again on a terminal, a line a batch elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda batch: say(f"{batch.batch_id}: {plural(batch.answers, 'answer')}")
        return
    answers = 0
    with console.status("Looking for batches") as line:

        def tell(batch: "cp.RecoveredBatch") -> None:
            nonlocal answers
            answers += batch.answers
            line.update(f"Reading batches: {plural(answers, 'answer')}")

        yield tell
