"""What a submit fixed for its job, and the limits that hold for it."""

from math import inf
from typing import Literal

import msgspec

from claude_pipeline.derived import PLAIN, AnswerOptions
from claude_pipeline.errors import InputError
from claude_pipeline.prompts import RequestForm
from claude_pipeline.records import JobRecord
from claude_pipeline.retrying import NO_RETRIES, Retries
from claude_pipeline.shards import MAX_BYTES, MAX_REQUESTS


class Limits(msgspec.Struct, frozen=True):
    """How much goes out at once, and how often; another value never changes what a job is."""

    max_batch_requests: int
    max_batch_bytes: int
    max_queued_requests: int
    max_attempts: int
    prime_cache: bool = False
    max_cost_usd: float | None = None


Mode = Literal["batch", "stream", "recovered"]


class Settings(msgspec.Struct, frozen=True):
    """What a submit fixed for its job, as the ledger keeps it."""

    label: str
    form: RequestForm
    model: str
    id_column: str | None
    prefix: str
    base_url: str | None
    limits: Limits
    answers: AnswerOptions = PLAIN
    mode: Mode = "batch"
    retries: Retries = NO_RETRIES

    @classmethod
    def of(cls, job: JobRecord) -> "Settings":
        """Read the settings of a job."""
        return msgspec.json.decode(job.settings, type=cls)

    def check_known(self, job_id: str) -> None:
        """Make sure that it is known what a job asked.

        Raises:
            InputError: It was recovered, and results do not say what was asked.
        """
        if self.mode == "recovered":
            raise InputError(
                f"{job_id} was recovered from the results of {self.label}, which do not say what was asked. "
                "Submit the table that it came from: what is answered costs nothing, and the rest is asked."
            )

    @property
    def columns(self) -> set[str]:
        """Name the columns that planning reads: those of requests, and the one that names rows."""
        return self.form.columns | ({self.id_column} if self.id_column else set())


def check_limits(limits: Limits) -> None:
    """Make sure that limits can be kept.

    Raises:
        InputError: One cannot; names it.
    """
    for name, most in (("max_batch_requests", MAX_REQUESTS), ("max_batch_bytes", MAX_BYTES)):
        if not 1 <= _whole(limits, name) <= most:
            raise InputError(f"{name} is {getattr(limits, name):,}. A Message Batch takes from 1 to {most:,}.")
    for name in ("max_queued_requests", "max_attempts"):
        if _whole(limits, name) < 1:
            raise InputError(f"{name} is {getattr(limits, name):,}. It must be at least 1.")
    if limits.max_cost_usd is not None and not is_amount(limits.max_cost_usd):
        raise InputError(f"max_cost_usd is {limits.max_cost_usd!r}. Give dollars, such as max_cost_usd=25.")


def is_amount(dollars: object) -> bool:
    """Tell whether something may be a limit in dollars."""
    return isinstance(dollars, int | float) and not isinstance(dollars, bool) and 0 < dollars < inf


def _whole(limits: Limits, name: str) -> int:
    number = getattr(limits, name)
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"{name} is {number!r}. Give a whole number.")
    return number


def has_room(queued: int, requests: int, job: JobRecord) -> bool:
    """Tell whether requests fit into the queue beside what is there; into an empty one they always do."""
    return not queued or queued + requests <= Settings.of(job).limits.max_queued_requests
