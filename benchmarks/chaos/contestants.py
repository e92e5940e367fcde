"""What a struck process does: the same command, each time from its start.

This is loaded once, by the server that forks the processes.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import sleep

import anthropic
import pandas as pd

import claude_pipeline as cp
from benchmarks import loop
from claude_pipeline import leases, pricing
from claude_pipeline.batches import make_client
from claude_pipeline.database import Database

from .plan import MAX_BATCH_REQUESTS, SPEED, Who

MODEL = "claude-haiku-4-5"
POLL_SECONDS = 0.05
EVERY_ATTEMPT = 1_000


@dataclass(frozen=True, slots=True)
class Work:
    """Where a command finds everything; `began` is the wall's clock at the beginning of the run."""

    source: Path
    out: Path
    store: Path
    url: str
    words: Path
    cancels: bool
    began: float


def ours(work: Work) -> None:
    """Submit, wait, write; a blocked job is resumed, as its user would."""
    _hurry(work.began)
    job = cp.submit(
        str(work.source),
        prompt_column="prompt",
        model=MODEL,
        max_tokens=64,
        store=work.store,
        client=_CLIENT.with_options(base_url=work.url),
        max_batch_requests=MAX_BATCH_REQUESTS,
        max_queued_requests=3 * MAX_BATCH_REQUESTS,
        max_attempts=EVERY_ATTEMPT,
    )
    if work.cancels:
        job.cancel()
        _wait(job)
        job.resume()
    _wait(job)
    while job.status().unanswered:  # somebody else has canceled it
        job.resume()
        _wait(job)
    job.write(work.out)


def documented(work: Work) -> None:
    """Run the loop of the documentation, with what retries the SDK makes by itself."""
    loop.MAX_BATCH_REQUESTS = MAX_BATCH_REQUESTS
    frame = pd.read_parquet(work.source)
    client = anthropic.Anthropic(base_url=work.url, api_key="sandbox")
    responses = dict(loop.answers(client, loop.build_requests(frame["prompt"])))
    frame["response"] = [responses.get(f"row-{row}") for row in frame.index]
    frame.to_parquet(work.out)


def obey(who: Who, work: Work) -> None:
    """Do what a contestant does, and keep the last words of one that fails."""
    commands: dict[Who, Callable[[Work], None]] = {"ours": ours, "loop": documented}
    try:
        commands[who](work)
    except Exception as error:  # noqa: BLE001 - whatever it is, its user reads it and runs the command again
        surprising = who == "ours" and not isinstance(error, cp.PipelineError)
        work.words.write_text(repr(error)[:200] if surprising else type(error).__name__, encoding="utf-8")
        sys.exit(1)


def _wait(job: cp.Job) -> None:
    while True:
        try:
            job.wait(poll_interval=POLL_SECONDS)
        except cp.JobBlockedError:
            sleep(POLL_SECONDS)
            job.resume()
        else:
            return


def _hurry(began: float) -> None:
    """Let the ledger's clock run faster: its leases, graces and back-offs are those of the product."""
    now = Database.now
    Database.now = lambda self: began + (now(self) - began) * SPEED  # type: ignore[method-assign]
    leases.RENEW_SECONDS /= SPEED


_CLIENT = make_client("http://127.0.0.1:1")
pricing.PriceList(datetime.now(UTC)).tiers(MODEL)
_ = cp.submit
gc.freeze()
