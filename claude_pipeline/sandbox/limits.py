"""How much an organization may ask a minute, and how much may wait in its batches."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import Final

from claude_pipeline.sandbox.errors import ApiError
from claude_pipeline.sandbox.wire import Usage, timestamp

MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """The limits of an organization; all but `queued_requests` are per minute.

    Requests and tokens of messages count for each model apart, cached input does not count.
    """

    queued_requests: int
    batch_calls: int
    requests: int
    input_tokens: int
    output_tokens: int


TIERS: Final[Mapping[str, Tier]] = {
    "start": Tier(
        queued_requests=200_000, batch_calls=1_000, requests=1_000, input_tokens=450_000, output_tokens=90_000
    ),
    "build": Tier(
        queued_requests=300_000, batch_calls=2_000, requests=2_000, input_tokens=800_000, output_tokens=160_000
    ),
    "scale": Tier(
        queued_requests=500_000, batch_calls=4_000, requests=4_000, input_tokens=2_000_000, output_tokens=400_000
    ),
}


class Bucket:
    """A token bucket: `limit` fit in, and it fills up within a minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = float(limit)
        self._at = 0.0

    def left(self, now: float) -> float:
        """Return how much is left; negative after an answer that was longer than foreseen."""
        refilled = self._left + max(0.0, now - self._at) * self.limit / MINUTE
        self._left, self._at = min(float(self.limit), refilled), max(now, self._at)
        return self._left

    def spend(self, amount: int, *, now: float) -> None:
        """Take `amount` out, even more than there is."""
        self._left = self.left(now) - amount

    def seconds_to(self, amount: float, *, now: float) -> float:
        """Return the seconds until `amount` is in the bucket."""
        return max(0.0, (amount - self.left(now)) * MINUTE / self.limit)


class ModelLimits:
    """The three buckets that messages to one model draw from."""

    def __init__(self, tier: Tier) -> None:
        self._buckets = {
            "requests": Bucket(tier.requests),
            "input-tokens": Bucket(tier.input_tokens),
            "output-tokens": Bucket(tier.output_tokens),
        }

    def check(self, *, now: float) -> None:
        """Count a request, or raise an `ApiError` that says which bucket is empty and for how long."""
        for name, bucket in self._buckets.items():
            _check(bucket, name.replace("-", " "), now=now, headers=self.headers(now=now))
        self._buckets["requests"].spend(1, now=now)

    def spend(self, usage: Usage, *, now: float) -> None:
        """Count the tokens of an answer; what was read from the cache is free."""
        self._buckets["input-tokens"].spend(usage.input_tokens + usage.cache_creation_input_tokens, now=now)
        self._buckets["output-tokens"].spend(usage.output_tokens, now=now)

    def headers(self, *, now: float) -> dict[str, str]:
        """Say what is left, as the API does on every answer to a message."""
        headers = {}
        for name, bucket in self._buckets.items():
            headers[f"anthropic-ratelimit-{name}-limit"] = str(bucket.limit)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(max(0, int(bucket.left(now))))
            full = now + bucket.seconds_to(bucket.limit, now=now)
            headers[f"anthropic-ratelimit-{name}-reset"] = timestamp(ceil(full)).replace(".000000", "")
        return headers


class RateLimits:
    """The limits of the organization; without a tier nothing is refused, and headers show the largest.

    Raises:
        ValueError: There is no such tier.
    """

    def __init__(self, tier: str | None = None) -> None:
        if tier is not None and tier not in TIERS:
            error = f"No tier {tier!r}. There is: {', '.join(TIERS)}."
            raise ValueError(error)
        self._enforced = tier is not None
        self._tier = TIERS[tier or "scale"]
        self.queued_requests = self._tier.queued_requests if self._enforced else None
        self._batch_calls = Bucket(self._tier.batch_calls)
        self._models: dict[str, ModelLimits] = {}

    def check_batch_call(self, *, now: float) -> None:
        """Count a call of a batch endpoint, or raise an `ApiError`."""
        if self._enforced:
            _check(self._batch_calls, "calls of the Message Batches API", now=now)
            self._batch_calls.spend(1, now=now)

    def check_message(self, model: str, *, now: float) -> None:
        """Count a request for a message, or raise an `ApiError`."""
        if self._enforced:
            self._of(model).check(now=now)

    def spend(self, model: str, usage: Usage, *, now: float) -> None:
        """Count the tokens of a message."""
        if self._enforced:
            self._of(model).spend(usage, now=now)

    def headers(self, model: str, *, now: float) -> dict[str, str]:
        """Say what is left for a model."""
        return self._of(model).headers(now=now)

    def _of(self, model: str) -> ModelLimits:
        if model not in self._models:
            self._models[model] = ModelLimits(self._tier)
        return self._models[model]


def _check(bucket: Bucket, what: str, *, now: float, headers: Mapping[str, str] = MappingProxyType({})) -> None:
    if bucket.left(now) < 1:
        message = f"This request would exceed your organization's rate limit of {bucket.limit} {what} per minute"
        seconds = max(1, ceil(bucket.seconds_to(1, now=now)))
        raise ApiError("rate_limit_error", message, retry_after=seconds, headers=headers)
