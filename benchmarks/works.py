"""What is measured. A work has groups, a group has cells, and the cells of a group take turns, round by round."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from .contestants import CONTESTANTS, LOOP, OURS, Contestant
from .measure import Cost, accepted, environment, list_calls, megabytes, python, reap, run, sandbox
from .records import Measurement
from .task import MAX_TOKENS, MODEL, Task

PREFIX: Final = "claude-pipeline-benchmark-"
POLLED_BATCHES: Final = 1_000
A_DAY: Final = 86_000.0
IMPORTS: Final = 5
IMPORTED: Final = {"nothing": "pass", "anthropic": "import anthropic", "ours": "import claude_pipeline"}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one contestant does with one input, and gets measured for."""

    work: str
    contestant: str
    rows: int
    run: Callable[[], list[Measurement]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tables of a session, each made once."""

    folder: Path

    def table(self, rows: int, *, first: int = 0, copies: int = 1, suffix: str = ".parquet") -> Path:
        """Return a table whose every prompt is there so many times; its ids begin at `first`."""
        path = self.folder / f"{first}-{rows}-{copies}{suffix}"
        if not path.exists():
            run(python("benchmarks.table", "make", path, first, rows, max(1, (first + rows) // copies)))
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A table to be answered, of several sizes."""

    name: str
    sizes: Sequence[int]
    who: Collection[str] = ("ours", "loop", "floor")
    task: Task = "text"
    copies: int = 1
    suffix: str = ".parquet"

    def groups(self, inputs: Inputs, rows: Sequence[int]) -> Iterator[list[Cell]]:
        """Yield the one group: sizes take turns as well, since what a row costs is seen between them."""
        able = [each for name, each in CONTESTANTS.items() if name in self.who]
        sizes = rows or self.sizes
        pairs = [(each, size) for size in sizes for each in able if size <= each.most_rows]
        yield [Cell(self.name, each.name, size, partial(self._measure, inputs, each, size)) for each, size in pairs]

    def _measure(self, inputs: Inputs, contestant: Contestant, rows: int) -> list[Measurement]:
        source = inputs.table(rows, copies=self.copies, suffix=self.suffix)
        with TemporaryDirectory(prefix=PREFIX) as folder, sandbox(self.task) as url:
            return [answered(self.name, contestant, source, Path(folder), url, rows=rows, task=self.task)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """A table, the same again, and one of which a hundredth is new, into one store."""

    name: str = "rerun"
    sizes: Sequence[int] = (1_000_000,)

    def groups(self, inputs: Inputs, rows: Sequence[int]) -> Iterator[list[Cell]]:
        """Yield a cell for each size; it is known by its first step."""
        for size in rows or self.sizes:
            yield [Cell("first", "ours", size, partial(self._measure, inputs, size))]

    def _measure(self, inputs: Inputs, rows: int) -> list[Measurement]:
        first, later = inputs.table(rows), inputs.table(rows, first=rows // 100)
        steps = {"first": first, "again": first, "new": later}
        with TemporaryDirectory(prefix=PREFIX) as folder, sandbox() as url:
            return [
                answered(step, OURS, source, Path(folder), url, rows=rows, task="text")
                for step, source in steps.items()
            ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The whole command on one row, beside the loop and the imports."""

    name: str = "start"

    def groups(self, inputs: Inputs, rows: Sequence[int]) -> Iterator[list[Cell]]:
        """Yield the one group."""
        loop, imports = Work(name="start", sizes=[1], who=[LOOP.name]), Import()
        ours = Cell("start", "ours", 1, partial(self._measure, inputs))
        yield [ours, *next(loop.groups(inputs, [])), *next(imports.groups(inputs, rows))]

    def _measure(self, inputs: Inputs) -> list[Measurement]:
        source = inputs.table(1)
        with TemporaryDirectory(prefix=PREFIX) as name, sandbox() as url:
            folder, out = Path(name), Path(name, "out.parquet")
            options = {
                "--prompt-column": "prompt",
                "--model": MODEL,
                "--max-tokens": MAX_TOKENS["text"],
                "--out": out,
                "--store": folder / "store",
                "--base-url": url,
                "--poll-interval": 0.2,
            }
            words = [str(word) for option in options.items() for word in option]
            command = [str(Path(sys.executable).with_name("claude-pipeline")), "run", str(source), *words]
            cost = reap(command, env=environment(url, folder))
            return [measurement("start", OURS, cost, rows=1, disk_mb=megabytes(folder), **checked(source, out))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What an import takes; the bare interpreter is measured beside, to be taken off."""

    name: str = "import"

    def groups(self, _inputs: Inputs, _rows: Sequence[int]) -> Iterator[list[Cell]]:
        """Yield the one group."""
        yield [Cell("import", who, 0, partial(self._measure, who, code)) for who, code in IMPORTED.items()]

    def _measure(self, who: str, code: str) -> list[Measurement]:
        costs = [reap([sys.executable, "-c", code]) for _ in range(IMPORTS)]
        cpu, wall, peak = (median(getattr(cost, name) for cost in costs) for name in Cost.__slots__[:3])
        return [Measurement(work="import", contestant=who, rows=0, cpu_seconds=cpu, wall_seconds=wall, peak_mb=peak)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One look at a hundred open jobs of a thousand batches, of which none has changed."""

    name: str = "poll"

    def groups(self, _inputs: Inputs, _rows: Sequence[int]) -> Iterator[list[Cell]]:
        """Yield the one cell."""
        yield [Cell("poll", "ours", POLLED_BATCHES, self._measure)]

    def _measure(self) -> list[Measurement]:
        with TemporaryDirectory(prefix=PREFIX) as folder, sandbox(batch_seconds=A_DAY) as url:
            store = Path(folder, "store")
            run(python("benchmarks.polling", "make", url, store))
            before = list_calls(url)
            cost = reap(python("benchmarks.polling", "poll", url, store))
            call = Cost(float(cost.printed), cost.wall_seconds, cost.peak_mb, "")
            return [measurement("poll", OURS, call, rows=POLLED_BATCHES, list_calls=list_calls(url) - before)]


AnyWork = Work | Rerun | Start | Import | Poll
HUNDRED_THOUSAND: Final = (100_000,)
WORKS: Final[Sequence[AnyWork]] = (
    Import(),
    Start(),
    Poll(),
    Work(name="text", sizes=(1_000, 20_000, 100_000, 1_000_000), who=[*CONTESTANTS]),
    Work(name="csv", sizes=HUNDRED_THOUSAND, suffix=".csv"),
    Work(name="duplicates", sizes=HUNDRED_THOUSAND, copies=2),
    Work(name="long", sizes=HUNDRED_THOUSAND, task="long"),
    Work(name="fields", sizes=HUNDRED_THOUSAND, task="fields"),
    Rerun(),
)
LARGE: Final = Work(name="text", sizes=(5_000_000,), who=["ours", "floor"])


def answered(
    work: str, contestant: Contestant, source: Path, folder: Path, url: str, *, rows: int, task: Task
) -> Measurement:
    """Let a contestant answer a table, and say what it cost and whether it is right."""
    out = folder / f"out{source.suffix}"
    before = accepted(url)
    cost = reap(contestant.command(source, out, url, folder, task), env=environment(url, folder))
    requests, disk = accepted(url) - before, megabytes(folder)
    found = checked(source, out, task=task, column=contestant.column)
    return measurement(work, contestant, cost, rows=rows, requests=requests, disk_mb=disk, **found)


def checked(source: Path, out: Path, *, task: Task = "text", column: str = "response") -> dict[str, int]:
    """Count what is lost, doubled or wrong."""
    found: dict[str, int] = json.loads(run(python("benchmarks.table", "check", source, out, task, column)))
    return found


def measurement(work: str, contestant: Contestant, cost: Cost, *, rows: int, **figures: float) -> Measurement:
    """Write a measurement down."""
    return Measurement(
        work=work,
        contestant=contestant.name,
        rows=rows,
        cpu_seconds=cost.cpu_seconds,
        wall_seconds=cost.wall_seconds,
        peak_mb=cost.peak_mb,
        **figures,  # type: ignore[arg-type]  # counts are whole
    )
