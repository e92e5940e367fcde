"""What was measured, and the file that keeps it."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Self

GB = 1e9

Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run; `disk_mb` is what it left behind, its output included.

    Attributes:
        requests: What the server accepted meanwhile.
        lost: Rows without an answer.
        doubled: Rows that came out more than once.
        wrong: Rows with another's answer, or changed.
    """

    work: str
    contestant: str
    rows: int
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float
    disk_mb: float = 0.0
    requests: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    list_calls: int = 0

    @property
    def key(self) -> Key:
        """Say what was measured, whichever round it was."""
        return self.work, self.contestant, self.rows


def machine() -> dict[str, object]:
    """Describe the machine, and nothing that tells which one it is."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "anthropic": version("anthropic"),
        "pyarrow": version("pyarrow"),
    }


@dataclass(slots=True)
class Record:
    """A session of measurements: where, when, what, and who did not take part and why."""

    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    machine: dict[str, Any] = field(default_factory=machine)
    skipped: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` has written."""
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(**told | {"measurements": [Measurement(**each) for each in told["measurements"]]})

    def write(self, path: Path) -> None:
        """Write the file; it appears whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    def count(self, key: Key) -> int:
        """Return how many rounds of something there are."""
        return sum(each.key == key for each in self.measurements)

    def medians(self) -> dict[Key, Measurement]:
        """Reduce the rounds to one measurement each."""
        runs: dict[Key, list[Measurement]] = {}
        for each in self.measurements:
            runs.setdefault(each.key, []).append(each)
        return {key: middle(of) for key, of in runs.items()}


def middle(runs: Iterable[Measurement]) -> Measurement:
    """Take the median of each figure, and of what must not happen the worst."""
    told = [asdict(each) for each in runs]
    usual = ("cpu_seconds", "wall_seconds", "peak_mb", "disk_mb")
    worst = ("requests", "lost", "doubled", "wrong", "list_calls")
    figures = {name: median(each[name] for each in told) for name in usual}
    return Measurement(**told[0] | figures | {name: max(each[name] for each in told) for name in worst})
