"""What one process costs, beside a fresh server of its own.

Nothing here may be large: Linux starts a child's peak memory at that of the process that started it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from urllib.request import urlopen

MB = 1e6
LONGEST_SECONDS = 3600.0
SAID_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of a process and its children, in seconds; its peak resident memory in MB of 10^6 bytes; what it printed."""

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float
    printed: str


class ContestantError(Exception):
    """A contestant, its server or its output failed."""

    def __init__(self, command: list[str], *, said: str) -> None:
        self.said = said.strip()[-SAID_CHARACTERS:] or "it said nothing"
        super().__init__(f"`{' '.join(command)}` failed: {self.said}")


def python(module: str, *arguments: object) -> list[str]:
    """Spell the command that runs a module of ours."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(command: list[str]) -> str:
    """Run a command that is not measured, and return what it printed."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own modules
    if ended.returncode:
        raise ContestantError(command, said=ended.stderr or ended.stdout)
    return ended.stdout


@contextmanager
def sandbox(answers: str = "text", *, batch_seconds: float = 0.0) -> Iterator[str]:
    """Run a server in a process of its own and give its URL."""
    command = python("benchmarks.serving", answers, batch_seconds)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own module
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise ContestantError(command, said="it printed no URL")
            yield url
        finally:
            process.terminate()


def environment(url: str, folder: Path) -> Mapping[str, str]:
    """Name the server as the SDK reads it, and a place for everything that is kept; no account is at risk."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("ANTHROPIC_", "CLAUDE_PIPELINE_"))}
    return mine | {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sandbox",
        "LOOM_HOME": str(folder / "loom"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


def reap(command: list[str], *, env: Mapping[str, str] | None = None) -> Cost:
    """Run a command and return its cost; whatever takes an hour is ended."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        started = time.monotonic()
        process = subprocess.Popen(command, env=env, stdout=out, stderr=err)  # noqa: S603 - our own modules
        limit = Timer(LONGEST_SECONDS, process.kill)
        limit.start()
        _, status, usage = os.wait4(process.pid, 0)
        limit.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise ContestantError(command, said=err.read() or f"exit code {process.returncode}")
        return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024 / MB, out.read())


def megabytes(folder: Path) -> float:
    """Return the size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MB


def accepted(url: str) -> int:
    """Return how many requests the server has accepted."""
    with urlopen(f"{url}/_sandbox/usage") as answer:  # noqa: S310 - our own server
        return int(json.load(answer)["requests_accepted"])


def list_calls(url: str) -> int:
    """Return how often the server was asked for its list of batches."""
    with urlopen(f"{url}/_sandbox/log") as answer:  # noqa: S310 - our own server
        entries = map(json.loads, answer)
        return sum(each["method"] == "GET" and each["path"].endswith("/batches") for each in entries)
