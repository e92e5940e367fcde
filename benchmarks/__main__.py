"""Compare CPU, memory and disk with the documentation's loop, a floor and the peers, against the sandbox.

Run it with `uv run python -m benchmarks`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console

from .contestants import CONTESTANTS, is_peer
from .environments import UnavailableError
from .goals import goals
from .measure import ContestantError, python, run
from .records import Measurement, Record
from .report import markdown, table
from .works import LARGE, PREFIX, WORKS, Cell, Inputs

RESULTS = Path(__file__).parent / "results"
PATIENCE_SECONDS = 20.0


def among(known: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Read names that are known; none at all are all of them."""
    names = [*dict.fromkeys(known)]

    def parse(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
        chosen = [each for each in value.split(",") if each] or names
        if unknown := [each for each in chosen if each not in names]:
            raise click.BadParameter(f"no {', '.join(unknown)}. There are {', '.join(names)}.")
        return chosen

    return parse


def parse_sizes(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    """Read the row counts, smallest first."""
    try:
        return sorted({int(size) for size in value.split(",") if size})
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 20000,100000.") from None


@dataclass(frozen=True, slots=True)
class Session:
    """A run of the command: what it keeps where, and how often it measures."""

    record: Record
    out: Path
    rounds: int

    def measure(self, group: Sequence[Cell]) -> None:
        """Measure the cells of a group in turn, so that a busy minute hits them all; what is there already, never."""
        for number in range(self.rounds):
            for cell in group:
                if self.record.count((cell.work, cell.contestant, cell.rows)) <= number and not self._is_done(cell):
                    self._measure(cell)

    def _is_done(self, cell: Cell) -> bool:
        """Say whether a peer cannot run, or has taken so long that once is enough."""
        if not is_peer(cell.contestant):
            return False
        key = cell.work, cell.contestant, cell.rows
        slow = any(each.key == key and each.wall_seconds > PATIENCE_SECONDS for each in self.record.measurements)
        return slow or cell.contestant in self.record.skipped

    def _measure(self, cell: Cell) -> None:
        try:
            measured = cell.run()
        except (UnavailableError, ContestantError) as error:
            if not is_peer(cell.contestant):
                raise click.ClickException(str(error)) from error
            said = str(error) if isinstance(error, UnavailableError) else f"it failed at {cell.rows:,} rows"
            self.record.skipped[cell.contestant] = said
            click.echo(f"          {cell.contestant} is skipped: {error}", err=True)
        else:
            self.record.measurements += measured
            for each in measured:
                announce(each)
        self.record.write(self.out)


def announce(each: Measurement) -> None:
    """Say a measurement on stderr as it comes."""
    cost = f"{each.cpu_seconds:6.2f} s CPU, {each.wall_seconds:6.1f} s, {each.peak_mb:6.0f} MB"
    click.echo(f"{each.rows:>9,} {each.work}, {each.contestant}: {cost}", err=True)


def show(record: Record, path: Path) -> None:
    """Print the table and the goals, and put both, and the plot, beside the record."""
    of = record.medians()
    Console(width=160).print(table(of))
    for goal in goals(of):
        click.echo(goal)
    for name, reason in record.skipped.items():
        click.echo(f"not measured: {name}, {reason}")
    path.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    if any(work == "text" for work, _, _ in of):
        run(python("benchmarks.plotting", path, path.with_suffix(".png")))


def measure_all(
    session: Session, *, works: Collection[str], only: Collection[str], rows: Sequence[int], large: bool
) -> None:
    """Measure every work that is wanted."""
    with TemporaryDirectory(prefix=PREFIX) as folder:
        inputs = Inputs(Path(folder))
        for work in (*WORKS, *([LARGE] if large else [])):
            if work.name in works:
                for group in work.groups(inputs, [] if work is LARGE else rows):
                    session.measure(
                        [cell for cell in group if cell.contestant not in CONTESTANTS or cell.contestant in only]
                    )


@click.command()
@click.option("--work", "works", default="", callback=among(each.name for each in WORKS), help="Only these works.")
@click.option("--only", default="", callback=among(CONTESTANTS), help="Only these contestants.")
@click.option("--rows", default="", callback=parse_sizes, help="These sizes instead of each work's own.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each; the table shows medians.")
@click.option("--large", is_flag=True, help="5,000,000 rows too.")
@click.option("--out", type=click.Path(path_type=Path), help="The record [default: benchmarks/results/DATE.json].")
@click.option("--resume", is_flag=True, help="Go on with the record: what is in it is not measured again.")
@click.option("--show", "shows", is_flag=True, help="Measure nothing, show the record.")
def main(
    works: list[str],
    *,
    only: list[str],
    rows: list[int],
    rounds: int,
    large: bool,
    out: Path | None,
    resume: bool,
    shows: bool,
) -> None:
    """Measure claude_pipeline beside the documentation's loop, a hand-written floor and the peers.

    The loop and the peers run up to 100,000 rows; a peer that takes longer than 20 s runs once.
    """
    record = Record()
    path = out or RESULTS / f"{record.date}.json"
    if resume or shows:
        if not path.exists():
            raise click.ClickException(f"There is no {path}.")
        record = Record.read(path)
    if not shows:
        measure_all(Session(record, path, rounds), works=works, only=only, rows=rows, large=large)
    show(record, path)


if __name__ == "__main__":
    main()
