"""What it costs to type answers: microseconds of CPU a row, the best of a few rounds.

Run it with `uv run python -m benchmarks.typed`.
"""

import json
import random
import time
from collections.abc import Callable, Mapping
from functools import partial

import click

from claude_pipeline.schemas import parse_fields
from claude_pipeline.typed import TypedColumns

ROWS = 100_000
ROUNDS = 5
SCHEMAS: Mapping[str, str] = {
    "four fields": "sentiment: positive|negative|neutral, score: float, stars: int, summary: str",
    "a list, a day and a moment": "sentiment: positive|negative|neutral, tags: list[str], on: date, at: datetime",
}
SUMMARY = "The handle came loose on the second day, and support answered with a form letter."


def answer(choose: random.Random, *, names: set[str]) -> str:
    """Write an answer with the fields that are asked for."""
    fields = {
        "sentiment": choose.choice(["positive", "negative", "neutral"]),
        "score": round(choose.random(), 3),
        "stars": choose.randint(1, 5),
        "summary": SUMMARY[: choose.randint(40, len(SUMMARY))],
        "tags": choose.sample(["price", "handle", "support", "delivery"], 2),
        "on": f"2026-11-{choose.randint(10, 30)}",
        "at": f"2026-11-{choose.randint(10, 30)}T12:34:56Z",
    }
    return json.dumps({name: value for name, value in fields.items() if name in names})


def microseconds(work: Callable[[], object]) -> float:
    """Measure the CPU that a row takes."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best / ROWS * 1e6


def main() -> None:
    """Print the figures."""
    for name, fields in SCHEMAS.items():
        typed = TypedColumns(parse_fields(fields))
        choose = random.Random(20_261_122)  # noqa: S311 - answers, not secrets
        answers = [answer(choose, names={field.name for field in typed.fields}) for _ in range(ROWS)]
        click.echo(f"{name}: {microseconds(partial(typed.decode, answers)):.2f} µs a row")


if __name__ == "__main__":
    main()
