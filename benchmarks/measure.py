"""What one contestant costs: a fresh process beside a fresh server.

Nothing here may be large: Linux starts a child's peak memory at that of the process that started it.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

Contestant = Literal["ours", "loop"]
MAX_LOOP_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run: CPU of the client and its children, in seconds; peak resident memory in MB of 10^6 bytes."""

    contestant: Contestant
    rows: int
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


class ContestantError(Exception):
    """A contestant, its server or its output failed."""

    def __init__(self, command: list[str], *, said: str) -> None:
        super().__init__(f"`{' '.join(command)}` failed: {said.strip() or 'it said nothing'}")


def python(module: str, *arguments: object) -> list[str]:
    """Spell the command that runs a module of ours."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(command: list[str]) -> None:
    """Run a command that is not measured."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own modules
    if ended.returncode:
        raise ContestantError(command, said=ended.stderr or ended.stdout)


@contextmanager
def sandbox() -> Iterator[str]:
    """Run a server in a process of its own and give its URL."""
    command = python("claude_pipeline.sandbox", "--port", 0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own module
        try:
            line = process.stdout.readline() if process.stdout else ""
            url = re.search(r"http://\S+[^\s.,]", line)
            if not url:
                raise ContestantError(command, said=line)
            yield url.group()
        finally:
            process.terminate()


def reap(command: list[str]) -> tuple[float, float, float]:
    """Run a command and return its CPU seconds, wall seconds and peak MB."""
    started = time.monotonic()
    environment = os.environ | {"ANTHROPIC_API_KEY": "sandbox"}
    process = subprocess.Popen(command, env=environment)  # noqa: S603 - our own module
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ContestantError(command, said=f"exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss * 1024 / 1e6


def measure(contestant: Contestant, *, rows: int, source: Path) -> Measurement:
    """Run a contestant once over the source, check what it wrote, and return what it cost."""
    with TemporaryDirectory(prefix="claude-pipeline-benchmark-") as scratch, sandbox() as url:
        out = Path(scratch, "out.parquet")
        cost = reap(python(f"benchmarks.{contestant}", source, out, url, Path(scratch, "store")))
        run(python("benchmarks.table", "check", source, out))
    return Measurement(contestant, rows, *cost)


def rounds(sizes: list[int], *, count: int, folder: Path) -> Iterator[Measurement]:
    """Measure every contestant at every size, in turn, so that a busy minute hits both."""
    for rows in sizes:
        source = folder / f"{rows}.parquet"
        run(python("benchmarks.table", "make", rows, source))
        for _ in range(count):
            yield measure("ours", rows=rows, source=source)
            if rows <= MAX_LOOP_ROWS:
                yield measure("loop", rows=rows, source=source)
