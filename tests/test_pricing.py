"""What answers cost: what `genai-prices` says, at half."""

from datetime import UTC, datetime

import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.pricing import PriceList, TokenUsage, worst_case_usd

MODELS = ["claude-haiku-4-5", "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-2"]
NOW = datetime(2026, 11, 22, tzinfo=UTC)
TOKENS = st.one_of(st.integers(0, 50_000), st.sampled_from([0, 99_999, 100_000, 100_001, 200_000, 200_001]))
USAGES = st.builds(
    TokenUsage, input=TOKENS, cache_read=TOKENS, cache_write=TOKENS, cache_write_1h=TOKENS, output=TOKENS
)


def list_price(model, usage):
    """Ask the library, whose `input_tokens` holds the cached ones, and whose `cache_write_tokens` those of an hour."""
    written = usage.cache_write + usage.cache_write_1h
    whole = Usage(
        input_tokens=usage.prompt,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=written,
        cache_write_1h_tokens=usage.cache_write_1h,
        output_tokens=usage.output,
    )
    return float(calc_price(whole, model, provider_id="anthropic", genai_request_timestamp=NOW).total_price)


@given(st.sampled_from(MODELS), USAGES)
def test_a_batch_costs_half_of_the_list_price(model, usage):
    assert PriceList(NOW).usd(model, usage) == pytest.approx(list_price(model, usage) / 2, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("prompt", [99_999, 100_000, 100_001])
def test_the_price_tier_changes_above_its_threshold_and_not_at_it(prompt):
    usage = TokenUsage(input=prompt, output=10)
    assert PriceList(NOW).usd("claude-haiku-5-5", usage) == pytest.approx(list_price("claude-haiku-5-5", usage) / 2)


def test_long_prompts_of_a_tiered_model_cost_five_times_more():
    prices = PriceList(NOW)
    below = prices.usd("claude-haiku-5-5", TokenUsage(input=100_000)) / 100_000
    above = prices.usd("claude-haiku-5-5", TokenUsage(input=100_001)) / 100_001
    assert above == pytest.approx(5 * below)


def test_cached_tokens_count_towards_the_tier():
    prices = PriceList(NOW)
    split = TokenUsage(input=1, cache_read=100_000)
    assert prices.usd("claude-haiku-5-5", split) == pytest.approx(list_price("claude-haiku-5-5", split) / 2)


def test_a_web_search_has_no_discount():
    prices = PriceList(NOW)
    assert prices.usd("claude-haiku-4-5", TokenUsage(web_searches=3)) == pytest.approx(0.03)


def test_a_dated_model_id_has_the_price_of_its_model():
    usage = TokenUsage(input=1_000, output=1_000)
    assert PriceList(NOW).usd("claude-haiku-4-5-20251001", usage) == PriceList(NOW).usd("claude-haiku-4-5", usage)


def test_a_model_without_a_known_price_has_no_cost_rather_than_none_at_all():
    assert PriceList(NOW).usd("claude-of-tomorrow", TokenUsage(input=1)) is None
    assert worst_case_usd("claude-of-tomorrow", requests=1, input_characters=1, max_tokens=1) is None


def test_the_worst_case_is_every_answer_at_its_limit():
    worst = worst_case_usd("claude-haiku-4-5", requests=1_000, input_characters=3_000_000, max_tokens=100)
    assert worst == pytest.approx(1_000 * PriceList(NOW).usd("claude-haiku-4-5", TokenUsage(input=1_000, output=100)))


def test_the_worst_case_of_nothing_is_nothing():
    assert worst_case_usd("claude-haiku-4-5", requests=0, input_characters=0, max_tokens=9) == 0
