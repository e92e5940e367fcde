"""What the ledger holds, as data: jobs, shards, claims, and the states they go through.

planned → uploading → submitting → in_progress → ended → collected          (a shard; canceling on the way)
streaming → collected                                                       (a shard that is answered live)
planning → in_progress → ended | blocked | canceling                         (a job)
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from claude_pipeline.arrays import Flags, Numbers
from claude_pipeline.status import JobState

ShardState = Literal[
    "planned", "uploading", "submitting", "in_progress", "canceling", "ended", "streaming", "collected"
]
QUEUED: tuple[ShardState, ...] = ("uploading", "submitting", "in_progress", "canceling")
PLANNED: tuple[ShardState, ...] = ("planned",)
UPLOADING: tuple[ShardState, ...] = ("uploading",)
SUBMITTING: tuple[ShardState, ...] = ("submitting",)
BEING_SENT: tuple[ShardState, ...] = ("uploading", "submitting", "streaming")
RUNNING: tuple[ShardState, ...] = ("in_progress", "canceling")
ENDED: tuple[ShardState, ...] = ("ended",)
STREAMING: tuple[ShardState, ...] = ("streaming",)
COLLECTED: tuple[ShardState, ...] = ("collected",)
AT_REST: tuple[JobState, ...] = ("ended", "blocked")
PLANNING: tuple[JobState, ...] = ("planning",)
CANCELING: tuple[JobState, ...] = ("canceling",)
OPEN_JOBS: tuple[JobState, ...] = ("planning", "in_progress", "canceling")
ENDED_JOBS: tuple[JobState, ...] = ("ended",)
WANTING_JOBS: tuple[JobState, ...] = ("planning", "in_progress")

# How often a row is asked again whose answer was cut off or does not fit.
MAX_AGAIN = 2

# Why a claim's request has no answer; zero while it may still get one.
FAILED = {"errored": 1, "canceled": 2, "expired": 3}


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Where a request's answer lies, or will."""

    shard: int
    position: int
    failed: int


class Claims(NamedTuple):
    """Who claims each of some requests: as `Claim`, but in columns; -1 where nobody does."""

    shards: Numbers
    positions: Numbers
    failed: Numbers

    @property
    def stand(self) -> Flags:
        """Which claims there are that have an answer, or may still get one."""
        stand: Flags = (self.shards >= 0) & (self.failed == 0)
        return stand

    def pick(self, which: Flags | slice) -> "Claims":
        """Keep some of them."""
        return Claims(self.shards[which], self.positions[which], self.failed[which])


class ModelUsage(NamedTuple):
    """What one model has answered in a shard, and what that has cost.

    `cost_usd` is what was paid, `list_usd` the same at list price; None without a known price.
    """

    model: str
    answers: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float | None
    list_usd: float | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A row of `jobs`.

    Attributes:
        refusals: Why rows cannot be sent, as the JSON of `Refusal`s.
        asking: Which asking of its rows is planned or awaited: 0 is the first, later ones ask some again.
        submitted_by: The user who submitted it, and `submitted_from` the host.
        traceparent: The span of its submit, for who traces.
        announced_at: When somebody was told that it ended or is blocked.
        pruned_at: When its input and answers were removed from the store.
    """

    job_id: str
    account: int
    name: str | None
    state: JobState
    reason: str | None
    settings: str
    rows: int
    skipped: int
    invalid: int
    refusals: str
    duplicates: int
    reused: int
    requests: int
    unanswered: int | None
    changes: int
    asking: int
    owner: str | None
    lease_until: float | None
    created_at: float
    submitted_at: float
    ended_at: float | None
    submitted_by: str | None
    submitted_from: str | None
    traceparent: str | None
    announced_at: float | None
    pruned_at: float | None


@dataclass(frozen=True, slots=True)
class Shard:
    """A row of `shards`: what is or was sent as one Message Batch.

    Attributes:
        asking: The asking of its job that planned it.
        truncated: Answers that were cut off at `max_tokens`; `refused` and `paused` count those that ended so.
        misfits: Answers that do not fit what its job asked for.
        cache_saved_usd: What caching saved, or cost where it is negative; None without a known price.
        reserved_usd: The most that its requests can cost, once a budget has asked for it; None if nobody knows.
        stream_id: What its results are called if it is streamed; it then has no batch.
        missing_from: The batches that delivered no line for these requests, which are asked again because of it.
        collected_at: When its results came into the store.
        pruned_at: When its results were removed from the store.
        deleted_at: When its batch was deleted at the API.
    """

    shard: int
    account: int
    job_id: str
    state: ShardState
    asking: int
    attempt: int
    requests: int
    first_row: int
    last_row: int
    reason: str | None
    not_before: float
    refusals: int
    owner: str | None
    lease_until: float | None
    newest_batch_id: str | None
    api_ahead: float | None
    submitting_at: float | None
    batch_id: str | None
    stream_id: str | None
    missing_from: str | None
    cancel_wanted: int
    created_at: float | None
    ended_at: float | None
    succeeded: int
    errored: int
    canceled: int
    expired: int
    truncated: int
    refused: int
    paused: int
    misfits: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_saved_usd: float | None
    cost_usd: float | None
    reserved_usd: float | None
    collected_at: float | None
    pruned_at: float | None
    deleted_at: float | None

    @property
    def has_results(self) -> bool:
        """Whether the store holds what it came to: it was neither given up nor pruned."""
        return self.state == "collected" and bool(self.results_id) and self.reason is None and self.pruned_at is None

    @property
    def results_id(self) -> str:
        """What the file of its results is called."""
        return self.batch_id or self.stream_id or ""
