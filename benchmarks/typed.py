"""What it costs to type answers, beside the same answers as plain text.

First the decoder alone, in microseconds of CPU a row; then whole jobs against a sandbox in another process: submit,
wait and write, and the writing alone. Always the best of a few rounds. The goal is a job at most 1.5 times as dear.

Run it with `uv run python -m benchmarks.typed`.
"""

import json
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pyarrow as pa
from anthropic import Anthropic

import claude_pipeline as cp
from claude_pipeline.schemas import output_format, parse_fields
from claude_pipeline.typed import TypedColumns

from .measure import sandbox

ROWS, JOB_ROWS = 100_000, 20_000
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


def seconds(work: Callable[[], object]) -> float:
    """Measure the CPU that this process spends."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_job(client: Anthropic, **options: Any) -> tuple[float, float]:  # noqa: ANN401 - what `cp.submit` takes
    """Measure a job in a new store: submit, wait and write, and the writing alone."""
    table = pa.table({"text": [f"Review {row}: {SUMMARY}" for row in range(JOB_ROWS)]})
    asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 300, "client": client}
    with TemporaryDirectory(prefix="claude-pipeline-benchmark-") as folder:
        started = time.process_time()
        job = cp.submit(table, store=Path(folder, "store"), preflight=False, **asked, **options).wait(poll_interval=0.2)
        written = seconds(partial(job.write, Path(folder, "out.parquet")))
        return time.process_time() - started, written


def compare_jobs(client: Anthropic, schema: dict[str, Any]) -> str:
    """Say how much dearer a job is with typed columns; both send the same requests and get the same answers."""
    plain = {"params": {"output_config": {"format": output_format(schema)}}}
    jobs = {"plain": plain, "typed": {"output_schema": schema}}
    runs = [{name: measure_job(client, **options) for name, options in jobs.items()} for _ in range(ROUNDS)]
    best = {name: [min(run[name][part] for run in runs) for part in range(2)] for name in jobs}
    whole, writing = ([best[name][part] / JOB_ROWS * 1e6 for name in jobs] for part in range(2))
    return (
        f"a job {whole[0]:.1f} → {whole[1]:.1f} µs a row ({whole[1] / whole[0]:.2f} times), "
        f"of that writing {writing[0]:.1f} → {writing[1]:.1f} µs ({writing[1] / writing[0]:.2f} times)"
    )


def main() -> None:
    """Print the figures."""
    with sandbox() as url, Anthropic(base_url=url, api_key="sandbox") as client:
        for name, fields in SCHEMAS.items():
            schema = parse_fields(fields)
            typed = TypedColumns(schema)
            choose = random.Random(20_261_122)  # noqa: S311 - answers, not secrets
            answers = [answer(choose, names={field.name for field in typed.fields}) for _ in range(ROWS)]
            decoding = min(seconds(partial(typed.decode, answers)) for _ in range(ROUNDS)) / ROWS * 1e6
            click.echo(f"{name}: decoding {decoding:.2f} µs a row; {compare_jobs(client, schema)}")


if __name__ == "__main__":
    main()
