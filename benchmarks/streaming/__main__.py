"""`uv run python -m benchmarks.streaming`: CPU a delta, time to the first text, memory of many rows at once."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.goals import Goal
from benchmarks.measure import python

KINDS = ("text", "tool")
FEW, MANY = 500, {"bare": 40_500, "ours": 40_500, "helper": 4_500}  # what takes little needs much to be seen
WAIT = 0.2
AT_ONCE, AT_ONCE_MB = 256, 300


@contextmanager
def server() -> Iterator[str]:
    """Run the server in a process of its own, and give its URL."""
    command = python("benchmarks.streaming.server")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own module
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def contest(who: str, url: str, prompts: list[str]) -> Any:  # noqa: ANN401  what the contestant tells
    """Run a contestant in a process of its own."""
    command = python("benchmarks.streaming.contestants", who, url, *prompts)
    ended = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own module
    return json.loads(ended.stdout.splitlines()[-1])


def cpu(who: str, url: str, kind: str, *, rounds: int) -> float:
    """Return the microseconds of CPU that a further delta takes, so that all else cancels out."""
    told = contest(who, url, [f"{kind} {FEW}", f"{kind} {MANY[who]}"] * rounds)["told"]
    short, long = (median(seconds for seconds, _ in told[start::2]) for start in (0, 1))
    return (long - short) / (MANY[who] - FEW) * 1e6


def first_text(who: str, url: str, wait: float, *, rounds: int) -> float:
    """Return the median seconds until the first text."""
    told = contest(who, url, [f"text 20 {wait}"] * (5 * rounds))["told"]
    return median(first for _, first in told)


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Print medians of several rounds, and the goals."""
    table = Table("who", "µs a text delta", "µs a tool delta", "first text, at once", f"after {WAIT:g} s", box=SIMPLE)
    with server() as url:
        found = {}
        for who in ("bare", "ours", "helper"):
            each = {kind: cpu(who, url, kind, rounds=rounds) for kind in KINDS}
            firsts = [first_text(who, url, wait, rounds=rounds) for wait in (0.0, WAIT)]
            found[who] = each, firsts
            micros = [f"{each[kind]:.1f}" for kind in KINDS]
            table.add_row(who, *micros, *(f"{first * 1e3:.1f} ms" for first in firsts))
        many = contest("at-once", url, [str(AT_ONCE)])
    Console().print(table)
    (ours, our_firsts), (theirs, _), (_, bare_firsts) = found["ours"], found["helper"], found["bare"]
    goals = [
        Goal("CPU a text delta, of the helper's", ours["text"] / theirs["text"], 1 / 6),
        Goal("CPU a tool delta, of the helper's", ours["tool"] / theirs["tool"], 1 / 30),
        Goal(f"First text after {WAIT:g} s, of a bare socket's", our_firsts[1] / bare_firsts[1], 1.2),
        Goal("First text at once, of a bare socket's", our_firsts[0] / bare_firsts[0], 1.2),
        Goal(f"MB of {AT_ONCE} rows at once, of {AT_ONCE_MB}", many["peak_mb"] / AT_ONCE_MB, 1.0),
    ]
    click.echo("\n".join(map(str, goals)))
    click.echo(f"{many['told']:,.0f} of {AT_ONCE * 8:,} rows answered, {many['peak_mb']:.0f} MB")


if __name__ == "__main__":
    main()
