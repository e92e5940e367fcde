"""What a job says of itself."""

from dataclasses import dataclass
from typing import Literal

JobState = Literal["planning", "in_progress", "canceling", "blocked", "ended"]
ProcessingStatus = Literal["in_progress", "canceling", "ended"]


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Tally a job's own requests, each once, by where its latest attempt stands."""

    waiting: int = 0
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def finished(self) -> int:
        """How many will not change any more."""
        return self.succeeded + self.errored + self.canceled + self.expired


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One Message Batch that a job waits for, as last seen.

    `created_at` and `ended_at` are seconds since the epoch.
    """

    batch_id: str
    processing_status: ProcessingStatus
    requests: int
    attempt: int
    created_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """Where a job stands.

    Attributes:
        reason: In words, what the job waits for or why it is blocked; None when there is nothing to say.
        rows: Rows of the input. It is the sum of `skipped`, `invalid`, `duplicates`, `reused` and `requests`.
        skipped: Rows with a blank prompt: kept, never sent.
        invalid: Rows that cannot be sent (`request_too_large`, `missing_field`).
        duplicates: Rows that share the request of an earlier row.
        reused: Rows whose request another job of this store has asked.
        requests: Distinct requests that this job asks itself.
        unanswered: Rows that could have been answered and were not; None until the job has ended.
        cost_usd: What the job's own requests have cost; None when a model's price is unknown.
        is_due: Whether `advance` has more to do now than to poll: something can be collected, planned or sent.
        changes: Counts the changes of state of the batches that the job waits for.
        created_at: Seconds since the epoch.
        submitted_at: Of the last submit of this same job; seconds since the epoch.
        ended_at: Seconds since the epoch.
    """

    job_id: str
    name: str | None
    model: str
    state: JobState
    reason: str | None
    rows: int
    skipped: int
    invalid: int
    duplicates: int
    reused: int
    requests: int
    counts: RequestCounts
    unanswered: int | None
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    batches: tuple[BatchStatus, ...]
    is_due: bool
    changes: int
    created_at: float
    submitted_at: float
    ended_at: float | None
