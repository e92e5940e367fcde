"""What answers cost: what `genai-prices` says, at half."""

from datetime import UTC, datetime

import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.errors import InputError
from claude_pipeline.pricing import LIST_PRICE, PriceList, TokenUsage

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


def test_outside_of_a_batch_an_answer_costs_twice_as_much_but_for_its_searches():
    live, usage = PriceList(NOW, share=LIST_PRICE), TokenUsage(input=1_000, output=1_000)
    assert live.usd("claude-haiku-5-5", usage) == 2 * PriceList(NOW).usd("claude-haiku-5-5", usage)
    assert live.usd("claude-haiku-4-5", TokenUsage(web_searches=3)) == pytest.approx(0.03)
    assert live.usd("claude-of-tomorrow", usage) is None


# A user's own prices


@pytest.fixture
def own(tmp_path):
    """Write prices into a store's folder and return the price list of that store."""

    def write(text):
        (tmp_path / "prices.toml").write_text(text)
        return PriceList(NOW, store=tmp_path, share=LIST_PRICE)

    return write


@pytest.mark.parametrize("model", ["claude-of-tomorrow", "claude-of-tomorrow-20271224"])
def test_ones_own_price_is_taken_for_a_model_and_its_dated_ids(own, model):
    prices = own("[claude-of-tomorrow]\ninput = 2\noutput = 8.5\n")
    assert prices.usd(model, TokenUsage(input=1_000_000)) == pytest.approx(2)
    assert prices.usd(model, TokenUsage(output=1_000_000)) == pytest.approx(8.5)


def test_ones_own_price_goes_before_the_known_one_and_leaves_the_others(own):
    prices, usage = own('["claude-haiku-4-5"]\ninput = 0.5\noutput = 0.5\n'), TokenUsage(input=1_000_000)
    assert prices.usd("claude-haiku-4-5", usage) == pytest.approx(0.5)
    assert prices.usd("claude-opus-5-5", usage) == PriceList(NOW, share=LIST_PRICE).usd("claude-opus-5-5", usage)


def test_prices_of_the_cache_follow_the_input_price_unless_they_are_given(own):
    prices = own("[a]\ninput = 10\noutput = 1\n[b]\ninput = 10\noutput = 1\ncache_read = 7\n")
    million = [TokenUsage(**{key: 1_000_000}) for key in ("cache_read", "cache_write", "cache_write_1h")]
    assert [prices.usd("a", usage) for usage in million] == pytest.approx([1, 12.5, 20])
    assert [prices.usd("b", usage) for usage in million] == pytest.approx([7, 12.5, 20])


def test_a_file_that_the_environment_names_goes_before_the_stores(own, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text("[a]\ninput = 1\noutput = 1\n")
    monkeypatch.setenv("CLAUDE_PIPELINE_PRICES", str(tmp_path / "mine.toml"))
    prices = own("[a]\ninput = 2\noutput = 2\n")
    assert prices.usd("a", TokenUsage(input=1_000_000)) == pytest.approx(1)


def test_a_file_that_the_environment_names_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAUDE_PIPELINE_PRICES", str(tmp_path / "none.toml"))
    with pytest.raises(InputError, match=r"Cannot read the prices in .*none\.toml.*CLAUDE_PIPELINE_PRICES"):
        PriceList(NOW)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a]\ninptu = 1\noutput = 1\n", r"no 'input' under \[a\]. Is it 'inptu'\?"),
        ("[a]\ninput = 1\n", r"no 'output' under \[a\]. Give dollars per million tokens"),
        ("[a]\ninput = 1\noutput = 1\ncache_reed = 1\n", r"'cache_reed' under \[a\]. Did you mean 'cache_read'\?"),
        ("[a]\ninput = 1\noutput = 1\nzzz = 1\n", "There are: input, cache_read"),
        ("[a.5]\ninput = 1\noutput = 1\n", r'needs quotes: \["claude-x.5"\]'),
        ("input = 1\n", "has 'input' outside of a table"),
        ("[a]\ninput = '1'\noutput = 1\n", "has input = '1' under"),
        ("[a]\ninput = true\noutput = 1\n", "has input = True under"),
        ("[a]\ninput = -1\noutput = 1\n", "has input = -1 under"),
        ("[a]\ninput = nan\noutput = 1\n", "has input = nan under"),
        ("[a\n", "are not TOML"),
    ],
)
def test_a_mistake_in_ones_own_prices_is_named_with_its_place(own, text, words):
    with pytest.raises(InputError, match=f"prices.toml.*{words}"):
        own(text)
