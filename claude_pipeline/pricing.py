"""What answers cost, from their usage: at the prices that `genai-prices` knows, or at a user's own.

A batch costs half of the list price, caching included (Anthropic's pricing page); web searches are not discounted.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from claude_pipeline.errors import InputError
from claude_pipeline.places import Place

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

BATCH_DISCOUNT, LIST_PRICE = 0.5, 1.0
PRICES_FILE, PRICES_VARIABLE = "prices.toml", "CLAUDE_PIPELINE_PRICES"

# Anthropic's pricing page: multiples of the input price, and dollars a thousand searches.
_USUAL = {"input": 1.0, "cache_read": 0.1, "cache_write": 1.25, "cache_write_1h": 2.0}
_SEARCHES_USD = 10.0
_KEYS = (*_USUAL, "output")
_DATE = re.compile(r"-\d{8}$")

Dollars = npt.NDArray[np.float64]


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
        return self.input + self.cache_read + self.cached_for_later

    @property
    def cached_for_later(self) -> int:
        """Tokens that were written to the cache."""
        return self.cache_write + self.cache_write_1h


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars a token, in the order of `TokenUsage`, for prompts above `above` tokens; dollars a search."""

    above: int
    tokens: tuple[float, ...]
    web_search: float

    def usd(self, usage: TokenUsage, share: float) -> float:
        """Price answers at a share of the list price."""
        return share * self._tokens_usd(usage) + self.web_search * usage.web_searches

    def cache_saved_usd(self, usage: TokenUsage, share: float) -> float:
        """Return what they would cost more without a cache; negative where writing cost more than reading saved."""
        fresh, read, write, write_1h, _ = self.tokens
        saved = (fresh - read) * usage.cache_read
        extra = (write - fresh) * usage.cache_write + (write_1h - fresh) * usage.cache_write_1h
        return share * (saved - extra)

    def _tokens_usd(self, usage: TokenUsage) -> float:
        fresh, read, write, write_1h, output = self.tokens
        return (
            fresh * usage.input
            + read * usage.cache_read
            + write * usage.cache_write
            + write_1h * usage.cache_write_1h
            + output * usage.output
        )


class PriceList:
    """The prices of a moment; each model is looked up once, since the library's own sum takes 0.5 ms a row.

    A user's own prices come first: those of the file that CLAUDE_PIPELINE_PRICES names, else of `prices.toml` in the
    store's folder. Of all these a batch costs a share, `BATCH_DISCOUNT`; a streamed answer costs `LIST_PRICE`.

    Raises:
        InputError: There is such a file, and it cannot be used; names what is wrong with it.
    """

    def __init__(self, at: datetime, *, store: Place | None = None, share: float = BATCH_DISCOUNT) -> None:
        self._at, self._share = at, share
        self._own = _own_rates(store)
        self._rates: dict[str, tuple[Rates, ...]] = {}

    def tiers(self, model: str) -> tuple[Rates, ...]:
        """Return a model's rates, those of longer prompts behind; none for a model without a known price."""
        if model not in self._rates:
            own = self._own.get(model) or self._own.get(_DATE.sub("", model))
            self._rates[model] = (own,) if own else _look_up(model, self._at)
        return self._rates[model]

    def usd(self, model: str, usage: TokenUsage) -> float | None:
        """Return what an answer costs in dollars, or None for a model without a known price."""
        rates = self._rates_of(model, usage)
        return None if rates is None else rates.usd(usage, self._share)

    def list_usd(self, model: str, cost_usd: float | None, *, searches: int) -> float | None:
        """Return what answers of a model that cost so much would have cost at list price."""
        tiers = self.tiers(model) if searches else ()
        if cost_usd is None or (searches and not tiers):
            return None
        searched = tiers[0].web_search * searches if searches else 0.0
        return (cost_usd - searched) / self._share + searched

    def usd_each(self, model: str, usage: TokenUsage) -> tuple[Dollars, float | None]:
        """Price answers of one model, whose usage counts in arrays; NaN without a known price.

        Returns as well what the cache saved on all of them: 0 without a cache, whatever the model, else None if that
        is not known.
        """
        tiers = self.tiers(model)[::-1]
        if not tiers:
            is_cached = np.any(usage.cache_read) or np.any(usage.cached_for_later)
            return np.full(np.shape(usage.input), nan), None if is_cached else 0.0
        reached = [usage.prompt > rates.above for rates in tiers]
        saved = np.select(reached, [rates.cache_saved_usd(usage, self._share) for rates in tiers])
        return np.select(reached, [rates.usd(usage, self._share) for rates in tiers]), float(saved.sum())

    def _rates_of(self, model: str, usage: TokenUsage) -> Rates | None:
        for rates in reversed(self.tiers(model)):
            if rates.above < 0 or usage.prompt > rates.above:
                return rates
        return None


def _look_up(model: str, at: datetime) -> tuple[Rates, ...]:
    from genai_prices import Usage, calc_price  # noqa: PLC0415  half a second, and only who collects needs it

    try:
        found = calc_price(Usage(input_tokens=1), model, provider_id="anthropic", genai_request_timestamp=at)
    except LookupError:
        return ()
    prices = {key: getattr(found.model_price, f"{key}_mtok") for key in _KEYS}
    return tuple(_rates(found.model_price, prices, above) for above in sorted(_thresholds(prices)))


def _thresholds(prices: "Mapping[str, Decimal | TieredPrices | None]") -> set[int]:
    return {-1} | {tier.start for price in prices.values() for tier in getattr(price, "tiers", ())}


def _rates(model_price: "ModelPrice", prices: "Mapping[str, Decimal | TieredPrices | None]", above: int) -> Rates:
    known = {key: _dollars(price, above) for key, price in prices.items() if price is not None}
    searches = model_price.web_searches_kcount
    return _make_rates(known, above, _SEARCHES_USD if searches is None else _dollars(searches, above))


def _make_rates(prices: dict[str, float], above: int = -1, searches: float = _SEARCHES_USD) -> Rates:
    """Make rates of dollars a million tokens and a thousand searches, with the usual prices of the cache."""
    usual = {key: prices.get("input", 0.0) * factor for key, factor in _USUAL.items()}
    return Rates(above, tuple((usual | prices).get(key, 0.0) / 1e6 for key in _KEYS), searches / 1e3)


def _dollars(price: "Decimal | TieredPrices", above: int) -> float:
    if isinstance(price, Decimal):
        return float(price)
    reached = [tier.price for tier in price.tiers if tier.start <= above]
    return float(reached[-1] if reached else price.base)


# A user's own prices


def _own_rates(store: Place | None) -> dict[str, Rates]:
    named = os.environ.get(PRICES_VARIABLE)
    path = Path(named).expanduser() if named else store and store / PRICES_FILE
    if path is None or not (named or path.exists()):
        return {}
    return {model: _make_rates(dict(_prices(path, model, table))) for model, table in _read(path).items()}


def _read(path: Place) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the prices in {path}: {error.strerror}. Mend {PRICES_VARIABLE}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The prices in {path} are not TOML: {error}.") from error


def _prices(path: Place, model: str, table: object) -> Iterator[tuple[str, float]]:
    if not isinstance(table, dict):
        raise InputError(f"{path} has {model!r} outside of a table. Begin one with a model's id: [claude-haiku-4-5]")
    for key in ("input", "output"):
        if key not in table:
            raise InputError(f"{path} has no {key!r} under [{model}]. {_hint(key, table)}")
    for key, price in table.items():
        if key not in _KEYS:
            raise InputError(f"{path} has {key!r} under [{model}]. {_suggest(key)}")
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < inf:
            raise InputError(f"{path} has {key} = {price!r} under [{model}]. Give dollars per million tokens.")
        yield key, float(price)


def _hint(key: str, table: Mapping[str, object]) -> str:
    """Say what may be meant where a price is missing: another spelling, or an id with a dot in it."""
    if nearest := get_close_matches(key, table, n=1):
        return f"Is it {nearest[0]!r}?"
    if any(isinstance(value, dict) for value in table.values()):
        return 'A model\'s id with a dot in it needs quotes: ["claude-x.5"]'
    return "Give dollars per million tokens, at list price."


def _suggest(key: str) -> str:
    nearest = get_close_matches(key, _KEYS, n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"There are: {', '.join(_KEYS)}."
