"""Measurements as a table, on the terminal and as Markdown."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.table import Table

from .goals import Medians, goals
from .records import Measurement, Record

HEADINGS = (
    "work", "rows", "who", "CPU s", "µs/row", "wall s", "peak MB", "disk MB", "lost", "doubled", "wrong",
    "CPU/loop", "MB/loop", "CPU/floor",
)  # fmt: skip
WORDS = frozenset({"work", "who"})


def table(of: Medians) -> Table:
    """Lay the medians out, each with its share of the loop's and the floor's."""
    out = Table(box=SIMPLE)
    for heading in HEADINGS:
        out.add_column(heading, justify="left" if heading in WORDS else "right", no_wrap=True)
    for row in rows(of):
        out.add_row(*row)
    return out


def rows(of: Medians) -> Iterator[Sequence[str]]:
    """Spell every median."""
    for (work, who, size), run in of.items():
        loop, floor = (of.get((work, other, size)) for other in ("loop", "floor"))
        per_row = f"{run.cpu_seconds / size * 1e6:,.0f}" if size else ""
        counts = [f"{count:,}" for count in (run.lost, run.doubled, run.wrong)]
        figures = [f"{run.cpu_seconds:.2f}", per_row, f"{run.wall_seconds:.1f}", f"{run.peak_mb:.0f}"]
        shares = [share(run, loop, "cpu_seconds"), share(run, loop, "peak_mb"), share(run, floor, "cpu_seconds")]
        yield [work, f"{size:,}", who, *figures, f"{run.disk_mb:.1f}", *counts, *shares]


def share(run: Measurement, other: Measurement | None, figure: str) -> str:
    """Spell what part of another's figure this one is."""
    return f"{getattr(run, figure) / getattr(other, figure):.2f}" if other else ""


def markdown(record: Record) -> str:
    """Write the whole record as a page."""
    of = record.medians()
    place = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in record.machine.items())
    lines = [f"# Measured on {record.date}", "", f"{place}.", "Medians; the server's own process is not counted.", ""]
    lines += [_line(HEADINGS), _line(["---" if each in WORDS else "--:" for each in HEADINGS]), *map(_line, rows(of))]
    lines += ["", "| goal | is | at most | |", "|---|--:|--:|---|"]
    lines += [
        _line([goal.name, f"{goal.ratio:.2f}", f"{goal.limit:.2f}", "met" if goal.met else "**not met**"])
        for goal in goals(of)
    ]
    lines += ["", *(f"- {name}: not measured, {reason}" for name, reason in record.skipped.items())]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
