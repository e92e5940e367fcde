"""Let everything fail, again and again, and print what was lost and what was paid twice.

Run it with `uv run python -m benchmarks.chaos --runs 50 --seed 1`.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .plan import Who
from .run import StuckError, run
from .tally import Tally

COLUMNS: dict[str, str] = {
    "runs": "runs",
    "stuck": "runs that did not end",
    "rows": "rows",
    "distinct": "distinct requests",
    "lost": "rows lost",
    "doubled": "rows doubled",
    "misjoined": "rows misjoined",
    "retries": "permitted retries",
    "beyond": "accepted beyond these",
    "twice": "answers paid twice",
    "excused": "of these billed, never delivered",
}


def judged(seeds: range, *, who: Who, at_once: int) -> Iterator[Tally]:
    """Run every seed and say which ones went wrong."""

    def one(seed: int) -> Tally | str:
        try:
            return run(seed, who=who)
        except StuckError as error:
            return str(error)

    with ThreadPoolExecutor(at_once) as pool:
        for seed, tally in zip(seeds, pool.map(one, seeds), strict=True):
            if isinstance(tally, str):
                click.echo(f"{who}, seed {seed}: {tally}", err=True)
                yield Tally(runs=1, stuck=1)
                continue
            if who == "ours" and (not tally.is_clean or tally.excused):
                click.echo(f"{who}, seed {seed}: {figures(tally)}", err=True)
            yield tally


def figures(tally: Tally) -> str:
    """Spell what is not zero."""
    return ", ".join(f"{words} {value:,}" for name, words in COLUMNS.items() if (value := getattr(tally, name)))


def summed(tallies: Iterator[Tally]) -> Tally:
    """Add all up."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def table(totals: dict[Who, Tally]) -> Table:
    """Lay out what became of whom."""
    out = Table(box=SIMPLE)
    for heading in ("", *totals):
        out.add_column(heading, justify="left" if not heading else "right")
    for name, words in COLUMNS.items():
        out.add_row(words, *(f"{getattr(total, name):,}" for total in totals.values()))
    for kind in ("happened", "faults"):
        for what in sorted({what for total in totals.values() for what in getattr(total, kind)}):
            out.add_row(what, *(f"{getattr(total, kind)[what]:,}" for total in totals.values()))
    return out


@click.command()
@click.option("--runs", default=50, show_default=True, help="How many runs of each.")
@click.option("--seed", default=1, show_default=True, help="The first run's; each next one has the next.")
@click.option("--at-once", default=3, show_default=True, help="Runs at the same time.")
@click.option("--only", type=click.Choice(["ours", "loop"]), help="Leave the other one out.")
def main(*, runs: int, seed: int, at_once: int, only: Who | None) -> None:
    """Let claude_pipeline and the documentation's loop work through faults, kills and freezes."""
    everybody: tuple[Who, ...] = (only,) if only else ("ours", "loop")
    seeds = range(seed, seed + runs)
    totals = {who: summed(judged(seeds, who=who, at_once=at_once)) for who in everybody}
    Console().print(table(totals))
    if "ours" in totals and not totals["ours"].is_clean:
        sys.exit(1)


if __name__ == "__main__":
    main()
