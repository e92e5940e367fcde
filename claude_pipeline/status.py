"""What a job says of itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

JobState = Literal["planning", "in_progress", "canceling", "blocked", "ended"]
ProcessingStatus = Literal["in_progress", "canceling", "ended"]


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Tally requests, each once, by where its latest attempt stands."""

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

    @property
    def total(self) -> int:
        """How many there are."""
        return self.waiting + self.processing + self.finished


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
class Refusal:
    """Rows that cannot be sent for one reason: how many, and what is said of the first."""

    error_type: str
    rows: int
    example: str


@dataclass(frozen=True, slots=True)
class Saved:
    """What a job did not have to pay, in dollars; None where it cannot be told.

    Attributes:
        duplicates_usd: About what its duplicates would have cost in a batch: each the mean of the job's own requests.
        reused_usd: About what its reused rows would have cost: each the mean of the batches that have their answers.
        caching_usd: What prompt caching saved on its own requests; negative where more was written than read.
        batch_usd: What its own requests would have cost more outside of batches. None where they may have searched
            the web, since searches have no discount and the ledger does not count them.
    """

    duplicates_usd: float | None
    reused_usd: float | None
    caching_usd: float | None
    batch_usd: float | None

    @property
    def total(self) -> float | None:
        """Dollars in all; None when one of them cannot be told."""
        return total_usd([self.duplicates_usd, self.reused_usd, self.caching_usd, self.batch_usd])


def total_usd(amounts: Iterable[float | None]) -> float | None:
    """Add up dollars; one that is not known makes the sum unknown."""
    total = 0.0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


@dataclass(frozen=True, slots=True)
class Status:
    """Where a job stands.

    Attributes:
        reason: In words, what the job waits for or why it is blocked; None when there is nothing to say.
        rows: Rows of the input. It is the sum of `skipped`, `invalid`, `duplicates`, `reused` and `requests`.
        skipped: Rows with a blank prompt: kept, never sent.
        invalid: Rows that cannot be sent (`request_too_large`, `missing_field`).
        refusals: Why they cannot.
        duplicates: Rows that share the request of an earlier row.
        reused: Rows whose request another job of this store has asked.
        requests: Distinct requests that this job asks itself.
        counts: Where these stand.
        unanswered: Rows that could have been answered and were not; None until the job has ended.
        input_tokens: Tokens of its own prompts that no cache took part in.
        cache_read_tokens: Tokens of its own prompts that came from the prompt cache.
        cache_write_tokens: Tokens of its own prompts that were written to it.
        cost_usd: What the job's own requests have cost; None when a model's price is unknown.
        saved: What it did not have to pay.
        is_due: Whether `advance` has more to do now than to poll: something can be collected, planned or sent, and
            the API can be reached.
        changes: Counts the changes of state of the batches that the job waits for.
        created_at: Seconds since the epoch.
        submitted_at: Of the last submit of this same job; seconds since the epoch.
        ended_at: Seconds since the epoch.
        pruned_at: When its input and answers were removed from the store, in seconds since the epoch; its figures stay.
        again: Where further requests stand, which ask again what was cut off or did not fit.
        truncated: Answers to its own requests, of all askings, that were cut off at `max_tokens`.
        refused: Those that Claude refused to give.
        paused: Those that stopped in the middle of a turn (`pause_turn`).
        misfits: Those that do not fit the schema that they were asked for.
    """

    job_id: str
    name: str | None
    model: str
    state: JobState
    reason: str | None
    rows: int
    skipped: int
    invalid: int
    refusals: tuple[Refusal, ...]
    duplicates: int
    reused: int
    requests: int
    counts: RequestCounts
    unanswered: int | None
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float | None
    saved: Saved
    batches: tuple[BatchStatus, ...]
    is_due: bool
    changes: int
    created_at: float
    submitted_at: float
    ended_at: float | None
    again: RequestCounts = RequestCounts()
    truncated: int = 0
    refused: int = 0
    paused: int = 0
    misfits: int = 0
    pruned_at: float | None = None

    @property
    def prompt_tokens(self) -> int:
        """All tokens of its own prompts, whether a cache took part in them or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def cache_hit_rate(self) -> float | None:
        """The share of `prompt_tokens` that came from the prompt cache, 0 to 1; None if no cache took part."""
        if not (self.cache_read_tokens or self.cache_write_tokens):
            return None
        return self.cache_read_tokens / self.prompt_tokens
