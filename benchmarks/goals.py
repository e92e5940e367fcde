"""The goals, each a ratio of figures of one run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .contestants import CONTESTANTS, is_peer
from .records import Key, Measurement

SMALL, MIDDLE, LARGE = 20_000, 100_000, 1_000_000
LARGE_SIZES: Final = (LARGE, 5_000_000)
MOST_MB: Final = 250
LIST_CALLS: Final = 2

Medians = Mapping[Key, Measurement]


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


def slope(of: Medians, contestant: str, small: int, large: int) -> float:
    """Return the CPU microseconds that one more row costs between two sizes: start-up cancels out."""
    begun, ended = of["text", contestant, small], of["text", contestant, large]
    return (ended.cpu_seconds - begun.cpu_seconds) / (large - small) * 1e6


def goals(of: Medians) -> list[Goal]:
    """Return the goals that the measurements allow to judge."""
    makers = (_cpu, _start, _memory, _growth, _reruns, _import, _poll, _peers, _whole)
    return [goal for make in makers for goal in make(of)]


def _cpu(of: Medians) -> Iterator[Goal]:
    for other, limit in (("loop", 1 / 5), ("floor", 1.5)):
        if all(("text", who, rows) in of for who in ("ours", other) for rows in (SMALL, MIDDLE)):
            ours, theirs = (slope(of, who, SMALL, MIDDLE) for who in ("ours", other))
            yield Goal(f"CPU a row, {ours:.0f} µs of the {other}'s {theirs:.0f}", ours / theirs, limit)


def _start(of: Medians) -> Iterator[Goal]:
    start, sdk = of.get(("start", "ours", 1)), of.get(("import", "anthropic", 0))
    if start and sdk:
        yield Goal(
            "CPU of the command on 1 row, of `import anthropic` + 1 s", start.cpu_seconds / (sdk.cpu_seconds + 1), 1
        )


def _memory(of: Medians) -> Iterator[Goal]:
    if not (ours := of.get(("text", "ours", MIDDLE))):
        return
    yield Goal(f"memory at {MIDDLE:,} rows, {ours.peak_mb:.0f} MB of {MOST_MB}", ours.peak_mb / MOST_MB, 1)
    if loop := of.get(("text", "loop", MIDDLE)):
        yield Goal(f"the same, of the loop's {loop.peak_mb:.0f} MB", ours.peak_mb / loop.peak_mb, 1 / 2)
    others = [("text", "ours", rows) for rows in LARGE_SIZES]
    others += [(work, "ours", MIDDLE) for work in ("duplicates", "long")]
    for work, who, rows in others:
        if other := of.get((work, who, rows)):
            name = f"memory of {work} at {rows:,} rows, of that at {MIDDLE:,}"
            yield Goal(name, other.peak_mb / ours.peak_mb, 1.25)


def _growth(of: Medians) -> Iterator[Goal]:
    if not all(("text", "ours", rows) in of for rows in (SMALL, MIDDLE)):
        return
    usual = slope(of, "ours", SMALL, MIDDLE)
    for rows in LARGE_SIZES:
        if ("text", "ours", rows) in of:
            name = f"CPU a row from {MIDDLE:,} to {rows:,}, of that to {MIDDLE:,}"
            yield Goal(name, slope(of, "ours", MIDDLE, rows) / usual, 1.15)


def _reruns(of: Medians) -> Iterator[Goal]:
    # a smaller table is start-up for the most part
    for rows in sorted({rows for work, _, rows in of if work == "first" and rows >= MIDDLE}):
        first, again, new = (of[step, "ours", rows] for step in ("first", "again", "new"))
        yield Goal(f"CPU of the same submit again at {rows:,} rows", again.cpu_seconds / first.cpu_seconds, 1 / 5)
        yield Goal("requests sent by it", again.requests, 0)
        yield Goal(f"CPU with 1 % new rows at {rows:,}", new.cpu_seconds / first.cpu_seconds, 0.6)
        yield Goal("requests sent, of the new rows", new.requests / (rows // 100), 1)


def _import(of: Medians) -> Iterator[Goal]:
    if all(("import", who, 0) in of for who in ("nothing", "anthropic", "ours")):
        bare, sdk, ours = (of["import", who, 0].cpu_seconds for who in ("nothing", "anthropic", "ours"))
        yield Goal("CPU of `import claude_pipeline`, of `import anthropic`", (ours - bare) / (sdk - bare), 1 / 4)


def _poll(of: Medians) -> Iterator[Goal]:
    for (work, _, batches), poll in of.items():
        if work == "poll":
            yield Goal(f"CPU seconds of a poll of {batches:,} batches", poll.cpu_seconds, 1)
            yield Goal("list calls of it", poll.list_calls, LIST_CALLS)


def _peers(of: Medians) -> Iterator[Goal]:
    """Judge each peer at the size where we are least ahead."""
    for peer in filter(is_peer, CONTESTANTS):
        pairs = [
            (of[work, "ours", rows], run)
            for (work, who, rows), run in of.items()
            if who == peer and (work, "ours", rows) in of
        ]
        for figure, name in (("cpu_seconds", "CPU"), ("peak_mb", "memory")) if pairs else ():
            worst, rows = max((getattr(ours, figure) / getattr(theirs, figure), ours.rows) for ours, theirs in pairs)
            yield Goal(f"{name}, of {peer}'s, at worst ({rows:,} rows)", worst, 1)


def _whole(of: Medians) -> Iterator[Goal]:
    mine = [each for each in of.values() if each.contestant == "ours"]
    yield Goal("rows lost, doubled or wrong", sum(each.lost + each.doubled + each.wrong for each in mine), 0)
