"""What answers cost, from their usage, at the prices that `genai-prices` knows.

A batch costs half of the list price, caching included (Anthropic's pricing page); web searches are not discounted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

BATCH_DISCOUNT = 0.5
CHARACTERS_PER_TOKEN = 3.0  # on the safe side: English runs at about four
_PRICE_KEYS = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok", "output_mtok")


class TokenUsage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer, each counted once: `input` is what no cache took part in."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    web_searches: int = 0

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, which decide the price tier."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars a token, in the order of `TokenUsage`, for prompts above `above` tokens; dollars a search."""

    above: int
    tokens: tuple[float, ...]
    web_search: float

    def usd(self, usage: TokenUsage) -> float:
        """Price one answer of a batch."""
        fresh, read, write, write_1h, output = self.tokens
        tokens = (
            fresh * usage.input
            + read * usage.cache_read
            + write * usage.cache_write
            + write_1h * usage.cache_write_1h
            + output * usage.output
        )
        return BATCH_DISCOUNT * tokens + self.web_search * usage.web_searches


class PriceList:
    """The prices of a moment; each model is looked up once, since the library's own sum takes 0.5 ms a row."""

    def __init__(self, at: datetime) -> None:
        self._at = at
        self._rates: dict[str, tuple[Rates, ...]] = {}

    def usd(self, model: str, usage: TokenUsage) -> float | None:
        """Return what an answer of a batch costs in dollars, or None for a model without a known price."""
        tiers = self._rates.get(model)
        if tiers is None:
            tiers = self._rates[model] = _look_up(model, self._at)
        for rates in reversed(tiers):
            if rates.above < 0 or usage.prompt > rates.above:
                return rates.usd(usage)
        return None


def worst_case_usd(model: str, *, requests: int, input_characters: int, max_tokens: int) -> float | None:
    """Return the most that a batch could cost in dollars, every answer at its limit; None without a known price."""
    prompt = round(input_characters / CHARACTERS_PER_TOKEN / max(requests, 1))
    one = PriceList(datetime.now(UTC)).usd(model, TokenUsage(input=prompt, output=max_tokens))
    return None if one is None else one * requests


def _look_up(model: str, at: datetime) -> tuple[Rates, ...]:
    from genai_prices import Usage, calc_price  # noqa: PLC0415  half a second, and only who collects needs it

    try:
        found = calc_price(Usage(input_tokens=1), model, provider_id="anthropic", genai_request_timestamp=at)
    except LookupError:
        return ()
    prices = {key: getattr(found.model_price, key) for key in _PRICE_KEYS}
    return tuple(_rates(found.model_price, prices, above) for above in sorted(_thresholds(prices)))


def _thresholds(prices: "Mapping[str, Decimal | TieredPrices | None]") -> set[int]:
    return {-1} | {tier.start for price in prices.values() for tier in getattr(price, "tiers", ())}


def _rates(model_price: "ModelPrice", prices: "Mapping[str, Decimal | TieredPrices | None]", above: int) -> Rates:
    tokens = tuple(_dollars(price, above) / 1e6 for price in prices.values())
    searches = model_price.web_searches_kcount
    return Rates(above, tokens, _dollars(searches, above) / 1e3)


def _dollars(price: "Decimal | TieredPrices | None", above: int) -> float:
    if price is None:
        return 0.0
    if isinstance(price, Decimal):
        return float(price)
    reached = [tier.price for tier in price.tiers if tier.start <= above]
    return float(reached[-1] if reached else price.base)
