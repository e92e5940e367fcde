"""What a job did not have to pay, and that its figures agree with its rows."""

import json

import pytest
from anthropic import Anthropic
from click.testing import CliRunner
from conftest import submit_to

import claude_pipeline as cp
from claude_pipeline import display
from claude_pipeline.cli import main
from claude_pipeline.status import Saved

MODEL = "claude-sonnet-4-5"
INSTRUCTION = "Answer with one word, and be as kind as you can. " * 400
INPUT, OUTPUT = 4 / 1e6 / 2, 10 / 1e6 / 2  # dollars a token of a batch, by the prices below
PRICES = f"[{MODEL}]\ninput = 4\noutput = 10\n"
WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search"}
HOUR = 3600


@pytest.fixture
def priced(store):
    """Give the store prices that a test can reckon with."""
    store.mkdir()
    (store / "prices.toml").write_text(PRICES, encoding="utf-8")


def end(job):
    return job.wait(poll_interval=0)


def sums(job):
    """Add up what stands on the rows of a job that paid."""
    rows = [row for row in job.to_arrow().to_pylist() if row["cost_usd"]]
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cost_usd")
    return [sum(row[name] or 0 for row in rows) for name in names]


def texts(count):
    return [f"What is {number}?" for number in range(count)]


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize(("cache", "write_factor"), [("5m", 1.25), ("1h", 2.0)])
def test_a_cached_job_tells_its_hit_rate_and_what_caching_saved_as_its_rows_do(ask, cache, write_factor):
    job = end(ask(texts(50), model=MODEL, system=INSTRUCTION, cache=cache))
    fresh, written_out, read, written, cost = sums(job)
    status = job.status()
    assert read > written > 0
    assert (status.input_tokens, status.cache_read_tokens, status.cache_write_tokens) == (fresh, read, written)
    assert status.cache_hit_rate == pytest.approx(read / (fresh + read + written))
    uncached = INPUT * (fresh + read + written) + OUTPUT * written_out
    assert status.saved.caching_usd == pytest.approx(uncached - cost)
    assert status.saved.caching_usd == pytest.approx(INPUT * (0.9 * read - (write_factor - 1) * written))
    assert status.cost_usd == pytest.approx(cost)


@pytest.mark.usefixtures("priced")
def test_what_was_written_to_the_cache_and_never_read_is_a_loss(ask):
    job = end(ask(["What is 1?"], model=MODEL, system=INSTRUCTION, cache="1h"))
    status = job.status()
    assert (status.cache_hit_rate, status.cache_read_tokens) == (0, 0)
    assert status.saved.caching_usd == pytest.approx(-INPUT * status.cache_write_tokens)
    assert "(0% from cache)" in display.summary(status)
    assert f"-${-status.saved.caching_usd:.4f} by caching" in display.summary(status)


def test_without_a_cache_there_is_no_hit_rate_and_no_word_of_it(ask):
    status = end(ask(texts(3))).status()
    assert (status.cache_hit_rate, status.saved.caching_usd) == (None, 0)
    assert "cach" not in display.summary(status)


def test_the_discount_of_batches_is_what_the_same_usage_costs_more_outside_of_them(ask, sandbox):
    job = end(ask(texts(5)))
    live = 0.0
    with Anthropic(base_url=sandbox.url, api_key="sandbox") as client:
        for text in texts(5):
            message = client.messages.create(
                model="claude-haiku-4-5", max_tokens=64, messages=[{"role": "user", "content": text}]
            )
            live += message.usage.input_tokens * 1e-6 + message.usage.output_tokens * 5e-6
    status = job.status()
    assert status.saved.batch_usd == pytest.approx(live - status.cost_usd)


def test_the_discount_is_not_known_where_the_web_may_have_been_searched(ask):
    status = end(ask([*texts(2), *texts(2)], params={"tools": [WEB_SEARCH]})).status()
    assert (status.saved.batch_usd, status.saved.total) == (None, None)
    assert status.saved.duplicates_usd == pytest.approx(status.cost_usd)
    assert display.summary(status).count("? by batches") == 1


def test_a_text_about_web_searches_is_no_web_search(ask):
    status = end(ask(texts(1), system='"type":"web_search_20250305"')).status()
    assert status.saved.batch_usd == status.cost_usd > 0


def test_a_duplicate_saves_what_a_request_of_its_job_costs(ask):
    job = end(ask(["What is 1?"] * 4))
    status = job.status()
    assert status.saved.duplicates_usd == pytest.approx(3 * sums(job)[-1])
    assert status.saved.total == pytest.approx(4 * status.cost_usd)
    assert "by 3 duplicates" in display.summary(status)


def test_a_reused_row_saves_what_it_cost_the_job_that_asked_it(ask):
    first = end(ask(texts(4)))
    again = end(ask([*texts(4), "What is new, and what is only longer than the others were?"]))
    status = again.status()
    assert status.saved.reused_usd == pytest.approx(first.status().cost_usd)
    assert status.saved.batch_usd == pytest.approx(status.cost_usd) == pytest.approx(sums(again)[-1])
    assert "by 4 reused rows" in display.summary(status)


def test_what_was_not_answered_saves_nothing(store):
    def fail(_custom_id, params, _attempt):
        return "invalid_request_error" if "bad" in params["messages"][0]["content"] else None

    with cp.Sandbox(rows=fail) as sandbox:
        failed = end(submit_to(sandbox, ["bad"] * 3, store=store)).status()
        half = end(submit_to(sandbox, ["good", "bad", "good", "bad"], store=store, salt="half")).status()
    assert (failed.duplicates, failed.saved) == (2, Saved(0.0, 0.0, 0.0, 0.0))
    assert half.saved.duplicates_usd == pytest.approx(half.cost_usd)


def test_nothing_is_saved_before_anything_is_answered(store):
    with cp.Sandbox(batch_seconds=HOUR) as sandbox:
        status = submit_to(sandbox, ["a", "a"], store=store).status()
    assert status.saved == Saved(0.0, 0.0, 0.0, 0.0)
    assert "1 duplicate: not asked, not paid" in display.summary(status)


def test_without_a_known_price_savings_are_unknown_and_not_nothing(ask):
    end(ask(texts(2), model="claude-of-tomorrow"))
    rows = [*texts(2), "What is new?", "What is new?"]
    job = end(ask(rows, model="claude-of-tomorrow", max_tokens=64, name="again"))
    status = job.status()
    assert (status.duplicates, status.reused, status.cost_usd) == (1, 2, None)
    assert status.saved == Saved(None, None, 0.0, None)
    assert "? (no known price)" in display.summary(status)
    assert "1 duplicate, 2 reused rows: not asked, not paid" in display.summary(status)


def test_caching_without_a_known_price_shows_its_hit_rate_and_no_dollars(ask):
    status = end(ask(texts(20), model="claude-of-tomorrow", system=INSTRUCTION, cache="1h")).status()
    assert status.cache_hit_rate > 0
    assert status.saved.caching_usd is None


@pytest.mark.usefixtures("priced")
def test_retries_and_several_batches_add_up_to_the_bill(store):
    def fail_once(_custom_id, params, attempt):
        return "overloaded_error" if attempt == 1 and "1?" in params["messages"][0]["content"] else None

    with cp.Sandbox(rows=fail_once) as sandbox:
        options = {"system": INSTRUCTION, "cache": "1h", "max_batch_requests": 7, "model": MODEL}
        job = end(submit_to(sandbox, [*texts(20), *texts(5)], store=store, **options))
        billed = sandbox.usage()
    fresh, out, read, written, cost = sums(job)
    status = job.status()
    assert (status.input_tokens, status.output_tokens) == (fresh, out)
    assert (billed["input_tokens"], billed["output_tokens"]) == (fresh, out)
    assert status.cache_read_tokens == read == billed["cache_read_input_tokens"]
    assert status.cache_write_tokens == written == billed["cache_creation_input_tokens"]
    bill = INPUT * (fresh + 0.1 * read + 2 * written) + OUTPUT * out
    assert status.cost_usd == pytest.approx(cost) == pytest.approx(bill)
    assert status.saved.duplicates_usd == pytest.approx(cost * 5 / 20)


def test_prices_that_cannot_be_read_are_said_before_anything_is_sent(ask, sandbox, store):
    store.mkdir()
    (store / "prices.toml").write_text("[claude-haiku-4-5]\ninptu = 1\noutput = 5\n", encoding="utf-8")
    with pytest.raises(cp.InputError, match=r"prices\.toml has no 'input' under \[claude-haiku-4-5\]. Is it 'inptu'"):
        ask(texts(2))
    assert sandbox.usage()["requests_accepted"] == 0
    assert cp.list_jobs(store=store) == []


def test_prices_that_cannot_be_read_are_said_and_the_answers_are_still_there_once_they_can(ask, store):
    job = ask(texts(2))
    (store / "prices.toml").write_text("input = 1\n", encoding="utf-8")
    with pytest.raises(cp.InputError, match=r"prices\.toml has 'input' outside of a table"):
        end(job)
    (store / "prices.toml").unlink()
    assert end(job).status().unanswered == 0


def test_json_has_the_hit_rate_and_the_sum_of_what_was_saved(ask, store):
    status = end(ask(["What is 1?"] * 2)).status()
    shown = CliRunner().invoke(main, ["status", status.job_id, "--store", str(store), "--json"], catch_exceptions=False)
    said = json.loads(shown.stdout)
    assert said["cache_hit_rate"] is None
    assert said["saved"] == {
        "duplicates_usd": status.saved.duplicates_usd,
        "reused_usd": 0.0,
        "caching_usd": 0.0,
        "batch_usd": status.cost_usd,
        "total_usd": pytest.approx(status.saved.total),
    }
