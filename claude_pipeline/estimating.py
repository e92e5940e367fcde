"""Estimating: what a table would cost, before anything is sent. Nothing is made that stays, and every call is free."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from claude_pipeline.calibrating import Prediction
from claude_pipeline.census import Census, count_waves, pack, take_census
from claude_pipeline.costing import EXPECTED_HITS, LEAST_HITS, Cached, Lengths, cost
from claude_pipeline.display import plural
from claude_pipeline.errors import InputError
from claude_pipeline.estimates import Estimate, ModelEstimate, Range
from claude_pipeline.forms import RequestOptions, build_form
from claude_pipeline.inquiring import Inquiry
from claude_pipeline.keywords import named
from claude_pipeline.pricing import PRICES_FILE, PriceList
from claude_pipeline.sessions import StorePath, existing_store
from claude_pipeline.settings import Limits, check_limits
from claude_pipeline.shards import MAX_BYTES, MAX_REQUESTS
from claude_pipeline.sources import Source, open_table
from claude_pipeline.store import find_store

if TYPE_CHECKING:
    from anthropic import Anthropic

_NOTHING = Range(0, 0, 0, 0)
_FIRST_ROWS = 20
_OF_SUBMIT_ALONE = frozenset(
    {"name", "content", "id_column", "prefix", "preflight", "max_cost_usd", "prime_cache", "max_attempts"}
    | {"on_invalid", "on_truncated"}
)


@named(*RequestOptions.__optional_keys__, *_OF_SUBMIT_ALONE)
def estimate(
    source: Source,
    *,
    exact: int | None = None,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    limit: int | None = None,
    max_batch_requests: int = MAX_REQUESTS,
    max_batch_bytes: int = MAX_BYTES,
    max_queued_requests: int = 200_000,
    **request: Unpack[RequestOptions],
) -> Estimate:
    """Estimate what a `submit` of the same arguments would send and cost; it sends nothing and makes no store.

    What the store has of the client's account is free. The API counts the tokens of a sample of the other requests,
    for nothing, and answers of the store to requests of the same form tell how long answers get.

    Args:
        source: The table, as for `submit`.
        exact: How many requests the API counts, though at least three of each model: 20 if there are credentials,
            else none. With 0 nobody is asked anything.
        store: The store, as for `submit`.
        ledger: Its ledger, as for `submit`.
        base_url: Where the API is, if not where the SDK looks.
        client: An `anthropic.Anthropic` to use.
        limit: Only the first so many rows.
        max_batch_requests: Requests in a batch, at most 100,000.
        max_batch_bytes: Bytes of a batch, at most 256,000,000.
        max_queued_requests: Requests of the account that may be processed at once.
        **request: What makes a row a request, as for `submit`; see `RequestOptions`. What else `submit` takes
            is passed over.

    Raises:
        InputError: The table, the template or a parameter cannot become requests, or the API would refuse them.
        CredentialsError: There is no API key, and `exact` asks for counts.
        ApiError: The API cannot be asked, and `exact` asks for counts.
        StoreError: The store cannot be read.
        TypeError: There is no such argument.
    """
    for key in request.keys() & _OF_SUBMIT_ALONE:
        del request[key]  # type: ignore[misc]
    limits = Limits(max_batch_requests, max_batch_bytes, max_queued_requests, 1)
    check_limits(limits)
    for name, number, least in (("exact", exact, 0), ("limit", limit, 1)):
        if number is not None and (not isinstance(number, int) or number < least):
            raise InputError(f"{name} is {number!r}. Pass a whole number, {least} or more.")
    path = find_store(store)
    prices = PriceList(datetime.now(UTC), store=path)
    with closing(open_table(source)) as table:
        form = build_form(table.schema, source=table.label, folder=Path.cwd(), **request)
        inquiry = Inquiry(form, exact=exact)
        inquiry.begin(lambda: existing_store(path, ledger), client=client, base_url=base_url, request=request)
        sample = inquiry.sample_size
        census = take_census(table, form, limit=limit, largest=max_batch_bytes, sample=sample, known=inquiry.known)
    return sum_up(table.label, census, inquiry, prices, limits)


@dataclass(frozen=True, slots=True)
class _Share:
    """What one model has to do."""

    estimate: ModelEstimate
    prompts: Prediction
    cached: Cached | None


def _share_of(model: str, census: Census, inquiry: Inquiry, prices: PriceList) -> _Share:
    prompts, cached = inquiry.predict(census, model), inquiry.prefix(census, model)
    lengths = Lengths.of(census.max_tokens(model), inquiry.learned)
    batch, live = cost(prices.tiers(model), prompts, lengths, cached) or (None, None)
    total, off = prompts.total, prompts.total * prompts.margin
    tokens = Range(round(total), max(0, round(total - off)), round(total + off), round(total + off))
    return _Share(ModelEstimate(model, len(prompts.tokens), tokens, lengths.total, batch, live), prompts, cached)


def sum_up(label: str, census: Census, inquiry: Inquiry, prices: PriceList, limits: Limits) -> Estimate:
    """Put together what an input would send and cost.

    Raises:
        InputError: The API would refuse the requests.
        ApiError: The API cannot be asked any more, and the inquiry needs it.
    """
    shares = [_share_of(model, census, inquiry, prices) for model in census.models]
    return _put_together(label, census, shares, inquiry, limits)


def _put_together(label: str, census: Census, shares: list[_Share], inquiry: Inquiry, limits: Limits) -> Estimate:
    largest = min(limits.max_batch_requests, limits.max_queued_requests)
    shards = pack(census.weights["size"], max_requests=largest, max_bytes=limits.max_batch_bytes)
    models = tuple(share.estimate for share in shares)
    tokens = sum((model.input_tokens for model in models), _NOTHING)
    cached = sum(share.cached.tokens * share.estimate.requests for share in shares if share.cached)
    return Estimate(
        label=label,
        rows=census.rows,
        skipped=census.skipped,
        invalid=census.invalid,
        requests=census.requests,
        answered=census.answered,
        to_send=len(census.weights),
        batches=len(shards),
        waves=count_waves(shards, max_queued=limits.max_queued_requests),
        body_bytes=sum(size for _, size in shards),
        counted=sum(share.prompts.counted for share in shares),
        input_tokens=tokens,
        input_margin=(tokens.high - tokens.expected) / tokens.expected if tokens.expected else 0.0,
        cached_tokens=round(cached / max(1, len(census.weights))),
        output_tokens=sum((model.output_tokens for model in models), _NOTHING),
        learned_from=len(inquiry.learned),
        batch_usd=_add(model.batch_usd for model in models),
        live_usd=_add(model.live_usd for model in models),
        models=models,
        unpriced=tuple(model.model for model in models if model.batch_usd is None),
        notes=(*_unsent(census), *inquiry.notes, *_notes(shares, learned_from=len(inquiry.learned))),
    )


def _add(amounts: Iterator[Range | None]) -> Range | None:
    """Add up dollars; what is not known makes the sum unknown."""
    total = _NOTHING
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def _unsent(census: Census) -> Iterator[str]:
    for refusal in census.refusals:
        yield f"{plural(refusal.rows, 'row')} cannot be sent ({refusal.error_type}). {refusal.example}"


def _notes(shares: list[_Share], *, learned_from: int) -> Iterator[str]:
    if not shares:
        return
    if learned_from:
        yield f"How long answers get was learned from {plural(learned_from, 'answer')} of the store."
    else:
        yield "The store has no answers to learn from, so an answer is taken to be half of max_tokens long."
        if sum(share.estimate.requests for share in shares) > _FIRST_ROWS:
            yield f"Send only the first {_FIRST_ROWS} rows with a limit, and the estimate learns from their answers."
    if unpriced := [share.estimate.model for share in shares if share.estimate.batch_usd is None]:
        yield f"No price is known of {', '.join(unpriced)}. Write it into {PRICES_FILE} in the store."
    yield from _notes_on_cache([share.cached for share in shares if share.cached])


def _notes_on_cache(kept: list[Cached]) -> Iterator[str]:
    if any(cached.is_too_short for cached in kept):
        yield f"What cache= should keep is too short ({min(c.tokens for c in kept):,} tokens): nothing will be cached."
    if not all(cached.is_too_short for cached in kept):
        yield (
            f"Expected are {EXPECTED_HITS:.0%} cache hits; the low figure has all but the first, "
            f"the high one {LEAST_HITS:.0%}, the worst case none."
        )
    if any(not cached.is_safe and not cached.is_too_short for cached in kept):
        yield "Not every model caches so little: the high figure and the worst case reckon with none."
