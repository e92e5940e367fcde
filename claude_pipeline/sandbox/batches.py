"""A batch from acceptance to its end: every change makes a new one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import gcd, isqrt
from random import Random
from typing import Final

import msgspec

from claude_pipeline.sandbox.answers import Answer
from claude_pipeline.sandbox.faults import chance
from claude_pipeline.sandbox.journal import Created
from claude_pipeline.sandbox.outcomes import Answering, Caller, Outcome, Row, RowError, Unanswered, result_line
from claude_pipeline.sandbox.wire import MessageBatch, ProcessingStatus, RequestCounts, timestamp

DAY: Final = 24 * 60 * 60.0
RESULTS_KEPT: Final = 29 * DAY
ROWS_A_CHUNK: Final = 1_000
LONGEST_RUN: Final = 10


@dataclass(frozen=True, slots=True)
class Ending:
    """When a batch ended, and what became of requests if it stopped early, but for a share that was done by then."""

    at: float
    unfinished: Unanswered | None
    done: float

    def of(self, row: Row, *, seed: int) -> Unanswered | None:
        """Say what became of a request that had not been reached; None if it had."""
        return (
            None if self.unfinished is None or chance(f"{seed}:{row.custom_id}:done") < self.done else self.unfinished
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch and its requests; times are seconds since the epoch.

    One whose `ending` is known from an earlier process is settled at the first look.
    """

    id: str
    workspace: str
    created_at: float
    version: str
    rows: Sequence[Row]
    cancel_initiated_at: float | None = None
    ending: Ending | None = None
    ended_at: float | None = None
    outcomes: Sequence[Outcome] = ()
    counts: RequestCounts

    @property
    def status(self) -> ProcessingStatus:
        """Say where the batch stands, in the API's words."""
        if self.ended_at is not None:
            return "ended"
        return "in_progress" if self.cancel_initiated_at is None else "canceling"

    def ends_at(self, batch_seconds: float) -> float:
        """Say when the batch ends if nobody cancels it."""
        return self.created_at + min(batch_seconds, DAY)

    def is_archived(self, now: float) -> bool:
        """Say whether the results are no longer kept."""
        return now >= self.created_at + RESULTS_KEPT


def accept(created: Created, rows: Sequence[Row]) -> Batch:
    """Begin a batch."""
    return Batch(
        id=created.batch_id,
        workspace=created.workspace,
        created_at=created.at,
        version=created.version,
        rows=rows,
        counts=RequestCounts(processing=len(rows)),
    )


def settle(batch: Batch, *, answering: Answering, batch_seconds: float, now: float) -> Batch:
    """End the batch if it was canceled or its time has come, else leave it as it is."""
    if batch.status == "ended":
        return batch
    ending = batch.ending or _ending(batch, batch_seconds=batch_seconds, now=now)
    if ending is None:
        return batch
    caller = Caller(workspace=batch.workspace, version=batch.version, base_url="", now=ending.at)
    outcomes = [
        answering.outcome(row, caller, position=position, unfinished=ending.of(row, seed=answering.seed))
        for position, row in enumerate(batch.rows, 1)
    ]
    return replace(batch, ending=ending, ended_at=ending.at, outcomes=outcomes, counts=_count(outcomes))


def _ending(batch: Batch, *, batch_seconds: float, now: float) -> Ending | None:
    if batch.cancel_initiated_at is not None:
        passed = batch.cancel_initiated_at - batch.created_at
        return Ending(now, "canceled", passed / batch_seconds if batch_seconds else 1.0)
    if now < batch.ends_at(batch_seconds):
        return None
    unfinished: Unanswered | None = "expired" if batch_seconds > DAY else None
    return Ending(batch.ends_at(batch_seconds), unfinished, DAY / max(DAY, batch_seconds))


def _count(outcomes: Sequence[Outcome]) -> RequestCounts:
    return RequestCounts(
        succeeded=sum(isinstance(outcome, Answer) for outcome in outcomes),
        errored=sum(isinstance(outcome, RowError) for outcome in outcomes),
        canceled=outcomes.count("canceled"),
        expired=outcomes.count("expired"),
    )


def show(batch: Batch, *, base_url: str, now: float) -> MessageBatch:
    """Show a batch as the API does."""
    url = f"{base_url}/v1/messages/batches/{batch.id}/results"
    return MessageBatch(
        id=batch.id,
        processing_status=batch.status,
        request_counts=batch.counts,
        ended_at=_optional(batch.ended_at),
        created_at=timestamp(batch.created_at),
        expires_at=timestamp(batch.created_at + DAY),
        archived_at=timestamp(batch.created_at + RESULTS_KEPT) if batch.is_archived(now) else None,
        cancel_initiated_at=_optional(batch.cancel_initiated_at),
        results_url=None if batch.ended_at is None else url,
    )


def _optional(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def result_chunks(batch: Batch, *, seed: int) -> Iterator[bytes]:
    """Yield the results as JSON lines in shuffled order, about a megabyte at a time."""
    order = _order(len(batch.rows), Random(f"{seed}:{batch.rows[0].custom_id}"))  # noqa: S311 - an order, not a secret
    encoder = msgspec.json.Encoder()
    for start in range(0, len(order), ROWS_A_CHUNK):
        chosen = order[start : start + ROWS_A_CHUNK]
        yield encoder.encode_lines([result_line(batch.rows[row], batch.outcomes[row]) for row in chosen])


def _order(rows: int, random: Random) -> Sequence[int]:
    """Return every row once, in an order that nobody should count on.

    Short runs stay together, since neighbors in memory are read twice as fast; steps cost a tenth of a shuffle.
    """
    longest = min(LONGEST_RUN, isqrt(rows))
    runs = [range(start, min(start + longest, rows)) for start in range(0, rows, longest)]
    step = random.randrange(1, len(runs) + 1)
    while gcd(step, len(runs)) > 1:
        step = step % len(runs) + 1
    first = random.randrange(len(runs))
    return [row for number in range(len(runs)) for row in runs[(first + step * number) % len(runs)]]
