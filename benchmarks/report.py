"""Measurements as medians, goals and a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from rich.box import SIMPLE
from rich.table import Table

from .measure import Contestant, Measurement

MEMORY_GROWTH = 1.25
CPU_SHARE = 1 / 4

Medians = dict[tuple[Contestant, int], Measurement]


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio and the most that it may be."""

    name: str
    ratio: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the ratio is within the limit."""
        return self.ratio <= self.limit

    def __str__(self) -> str:
        """Say how the goal stands."""
        return f"{'met    ' if self.met else 'NOT MET'}  {self.name}: {self.ratio:.2f} (at most {self.limit:.2f})"


def medians(measurements: Iterable[Measurement]) -> Medians:
    """Reduce the rounds to one measurement for each contestant and size."""
    runs: dict[tuple[Contestant, int], list[Measurement]] = {}
    for run in measurements:
        runs.setdefault((run.contestant, run.rows), []).append(run)
    return {key: middle(of) for key, of in runs.items()}


def middle(runs: list[Measurement]) -> Measurement:
    """Take the median of each figure."""
    return Measurement(
        runs[0].contestant,
        runs[0].rows,
        median(run.cpu_seconds for run in runs),
        median(run.wall_seconds for run in runs),
        median(run.peak_mb for run in runs),
    )


def slope(of: Medians, *, contestant: Contestant, sizes: tuple[int, int]) -> float:
    """Return the CPU microseconds that one more row costs between two sizes: start-up cancels out."""
    small, large = (of[contestant, rows] for rows in sizes)
    return (large.cpu_seconds - small.cpu_seconds) / (large.rows - small.rows) * 1e6


def shared_sizes(of: Medians) -> tuple[int, int] | None:
    """Return the two largest sizes that both contestants ran."""
    sizes = sorted(rows for contestant, rows in of if contestant == "loop")
    return (sizes[-2], sizes[-1]) if len(sizes) > 1 else None


def cpu_goal(of: Medians) -> Goal | None:
    """Compare the CPU per row with the loop's."""
    if not (sizes := shared_sizes(of)):
        return None
    ours, loop = (slope(of, contestant=contestant, sizes=sizes) for contestant in ("ours", "loop"))
    name = f"CPU per row from {sizes[0]:,} to {sizes[1]:,} rows, {ours:.0f} µs of the loop's {loop:.0f}"
    return Goal(name, ours / loop, CPU_SHARE)


def memory_goal(of: Medians) -> Goal | None:
    """Compare the peak memory of the two largest sizes."""
    ours = sorted((run for run in of.values() if run.contestant == "ours"), key=lambda run: run.rows)[-2:]
    if len(ours) < 2:  # noqa: PLR2004 - a ratio takes two
        return None
    small, large = ours
    return Goal(
        f"Memory at {large.rows:,} rows over that at {small.rows:,}", large.peak_mb / small.peak_mb, MEMORY_GROWTH
    )


def goals(of: Medians) -> list[Goal]:
    """Return the goals that the sizes allow to judge."""
    return [goal for goal in (cpu_goal(of), memory_goal(of)) if goal]


def table(of: Medians) -> Table:
    """Lay the medians out, each with its share of the loop's."""
    out = Table(box=SIMPLE)
    for heading in ("rows", "who", "CPU s", "µs/row", "wall s", "peak MB", "CPU/loop", "MB/loop"):
        out.add_column(heading, justify="left" if heading == "who" else "right", no_wrap=True)
    for (contestant, rows), run in of.items():
        loop = of.get(("loop", rows))
        out.add_row(f"{rows:,}", contestant, *figures(run), *shares(run, loop=loop))
    return out


def figures(run: Measurement) -> list[str]:
    """Spell what a contestant cost."""
    per_row = run.cpu_seconds / run.rows * 1e6
    return [f"{run.cpu_seconds:.2f}", f"{per_row:.0f}", f"{run.wall_seconds:.1f}", f"{run.peak_mb:.0f}"]


def shares(run: Measurement, *, loop: Measurement | None) -> list[str]:
    """Spell what a contestant cost as a share of the loop's."""
    if not loop:
        return ["", ""]
    return [f"{run.cpu_seconds / loop.cpu_seconds:.2f}", f"{run.peak_mb / loop.peak_mb:.2f}"]
