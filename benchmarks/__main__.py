"""Compare CPU and memory with the loop of Anthropic's documentation, against the sandbox.

Run it with `uv run python -m benchmarks`.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console

from .measure import ContestantError, Measurement, rounds
from .report import goals, medians, table


def parse_sizes(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    """Read the row counts, smallest first."""
    try:
        return sorted({int(size) for size in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 20000,100000.") from None


def announced(measurements: Iterator[Measurement]) -> Iterator[Measurement]:
    """Say each measurement on stderr as it comes."""
    for run in measurements:
        click.echo(
            f"{run.rows:>9,} {run.contestant}: {run.cpu_seconds:6.2f} s CPU, {run.wall_seconds:6.1f} s, "
            f"{run.peak_mb:6.0f} MB",
            err=True,
        )
        yield run


def measured(sizes: list[int], *, count: int) -> list[Measurement]:
    """Run everything, or say what failed."""
    with TemporaryDirectory(prefix="claude-pipeline-benchmark-") as folder:
        try:
            return list(announced(rounds(sizes, count=count, folder=Path(folder))))
        except ContestantError as error:
            raise click.ClickException(str(error)) from error


@click.command()
@click.option("--rows", "sizes", default="20000,100000,1000000", callback=parse_sizes, help="Sizes to measure.")
@click.option("--rounds", "count", default=3, show_default=True, help="Runs of each; the table shows medians.")
@click.option("--quick", is_flag=True, help="One round of 2,000 and 10,000 rows, to see that it works.")
@click.option("--out", type=click.Path(path_type=Path), help="Also save every measurement as JSON.")
def main(sizes: list[int], *, count: int, quick: bool, out: Path | None) -> None:
    """Measure claude_pipeline beside the loop of Anthropic's documentation; the loop up to 100,000 rows."""
    if quick:
        sizes, count = [2_000, 10_000], 1
    runs = measured(sizes, count=count)
    of = medians(runs)
    Console().print(table(of))
    for goal in goals(of):
        click.echo(goal)
    if out:
        out.write_text(json.dumps([asdict(run) for run in runs], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
