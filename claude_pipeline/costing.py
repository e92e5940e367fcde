"""What predicted tokens come to in dollars, as a batch and live."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from claude_pipeline.caching import LEAST_TOKENS, SAFE_TOKENS, Cache
from claude_pipeline.calibrating import Floats, Prediction, margin_of_mean
from claude_pipeline.estimates import Range
from claude_pipeline.pricing import BATCH_DISCOUNT, LIST_PRICE, Rates, TokenUsage

# In batches hits are best-effort: https://docs.anthropic.com/en/docs/build-with-claude/batch-processing
EXPECTED_HITS, LEAST_HITS = 0.65, 0.3


@dataclass(frozen=True, slots=True)
class Cached:
    """The beginning of each prompt that is to be cached."""

    tokens: int
    lifetime: Cache

    @property
    def is_too_short(self) -> bool:
        """Tell whether no model keeps so little."""
        return self.tokens < LEAST_TOKENS

    @property
    def is_safe(self) -> bool:
        """Tell whether every model keeps as much."""
        return self.tokens >= SAFE_TOKENS


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each answer."""

    expected: Floats
    low: Floats
    high: Floats
    worst: Floats

    @classmethod
    def of(cls, max_tokens: Floats, learned: Floats) -> "Lengths":
        """Expect what earlier answers had; without any, the middle of what is possible."""
        if not len(learned):
            return cls(max_tokens / 2, np.minimum(max_tokens, 1.0), max_tokens, max_tokens)
        mean, margin = learned.mean(), margin_of_mean(learned)
        low, high = mean * max(0, 1 - margin), mean * (1 + margin)
        expected, low, high = (np.minimum(max_tokens, length) for length in (mean, low, high))
        return cls(expected, low, high, max_tokens)

    @property
    def total(self) -> Range:
        """Tokens of all answers."""
        return Range(*(round(float(getattr(self, field.name).sum())) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class _Case:
    """One way that things may go.

    Attributes:
        prompts: Tokens of each prompt.
        hits: The share of prompts that find the cache filled.
        is_bad: Whether to expect that a model keeps no prefix as short as this one, if some do not.
    """

    prompts: Floats
    answers: Floats
    hits: float
    is_bad: bool = False


def cost(
    tiers: Sequence[Rates], prompts: Prediction, answers: Lengths, cached: Cached | None
) -> tuple[Range, Range] | None:
    """Return the dollars that requests to one model cost as a batch and live; None without a price."""
    if not tiers:
        return None
    batch, live = zip(*(_price(tiers, case, cached) for case in _cases(prompts, answers)), strict=True)
    return Range(*batch), Range(*live)


def _cases(prompts: Prediction, answers: Lengths) -> Iterator[_Case]:
    """Yield what is expected, the cheapest, the dearest and the worst."""
    tokens, margin = prompts.tokens, prompts.margin
    most_hits = 1 - 1 / len(tokens)  # somebody has to fill the cache
    yield _Case(tokens, answers.expected, min(EXPECTED_HITS, most_hits))
    yield _Case(tokens * max(0, 1 - margin), answers.low, most_hits)
    yield _Case(tokens * (1 + margin), answers.high, min(LEAST_HITS, most_hits), is_bad=True)
    yield _Case(tokens * (1 + margin), answers.worst, 0, is_bad=True)


def _price(tiers: Sequence[Rates], case: _Case, cached: Cached | None) -> tuple[float, float]:
    if cached is None or cached.is_too_short:
        return _sum(tiers, case, None)
    if case.is_bad and not cached.is_safe:
        return max(_sum(tiers, case, cached), _sum(tiers, case, None))
    return _sum(tiers, case, cached)


def _sum(tiers: Sequence[Rates], case: _Case, cached: Cached | None) -> tuple[float, float]:
    """Add up the tiers: within one, what requests cost together is what their tokens do."""
    limits = [rates.above for rates in tiers] + [np.inf]
    batch = live = 0.0
    for rates, above, most in zip(tiers, limits, limits[1:], strict=False):
        usage = _usage(case, (case.prompts > above) & (case.prompts <= most), cached)
        batch, live = batch + rates.usd(usage, BATCH_DISCOUNT), live + rates.usd(usage, LIST_PRICE)
    return batch, live


def _usage(case: _Case, chosen: npt.NDArray[np.bool_], cached: Cached | None) -> TokenUsage:
    prompts, answers = float(case.prompts[chosen].sum()), float(case.answers[chosen].sum())
    if cached is None:
        return TokenUsage(input=round(prompts), output=round(answers))
    kept = float(np.minimum(case.prompts[chosen], cached.tokens).sum())
    written = round(kept * (1 - case.hits))
    return TokenUsage(
        input=round(prompts - kept),
        cache_read=round(kept * case.hits),
        cache_write=written if cached.lifetime == "5m" else 0,
        cache_write_1h=written if cached.lifetime == "1h" else 0,
        output=round(answers),
    )
