"""What a table would cost is told before anything is sent, and it comes to that."""

import inspect
import json
import random
import struct
import zlib

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from anthropic import Anthropic

import claude_pipeline as cp
from claude_pipeline.cards import framed
from claude_pipeline.estimating import _OF_SUBMIT_ALONE
from claude_pipeline.estimating import estimate as estimate_cost
from claude_pipeline.forms import RequestOptions
from claude_pipeline.pricing import BATCH_DISCOUNT

MODEL = "claude-haiku-4-5"
TOKENS_IN = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
WORDS = ["batch", "answer", "column", "cheap", "every", "row", "naïve", "prompt", "quick", "table", "价格", "été"]


def words(seed, least, most):
    """Write so many words, which a seed chooses."""
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS) for _ in range(chance.randint(least, most)))


def png(side):
    """Draw a square of noise."""
    pixels = b"".join(b"\0" + random.Random(row).randbytes(side * 3) for row in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.fixture
def client(sandbox):
    with Anthropic(base_url=sandbox.url, api_key="sandbox") as client:
        yield client


@pytest.fixture
def estimate(client, store):
    """Estimate against the sandbox and the store, with what most tests do not vary."""

    def estimated(source, **options):
        settings = {"model": MODEL, "max_tokens": 64, "client": client, "store": store, **options}
        return estimate_cost(prompts(source) if isinstance(source, list) else source, **settings)

    return lambda source, **options: estimated(source, **with_prompt(options))


def prompts(texts):
    return pa.table({"text": pa.array(texts, pa.string())})


def with_prompt(options):
    given = {"template", "prompt_column", "messages_column"} & options.keys()
    return options if given else {"prompt_column": "text", **options}


def bill(job):
    """Return the tokens in and out, and the dollars, that a job has come to."""
    table = job.wait(poll_interval=0.01).to_arrow()
    assert pc.all(pc.equal(table["result_type"], "succeeded")).as_py()
    total = {name: pc.sum(table[name]).as_py() for name in (*TOKENS_IN, "output_tokens", "cost_usd")}
    return sum(total[name] for name in TOKENS_IN), total["output_tokens"], total["cost_usd"], total


def assert_holds(found, tokens_in, tokens_out, usd):
    """Make sure that an estimate's ranges hold what it came to."""
    assert abs(found.input_tokens.expected - tokens_in) <= found.input_margin * found.input_tokens.expected
    assert found.output_tokens.low <= tokens_out <= found.output_tokens.worst
    assert found.batch_usd.low <= usd <= found.batch_usd.high <= found.batch_usd.worst


PIPELINES = {
    "two columns and a system text": (
        lambda: {
            "title": [words(row, 1, 8) for row in range(300)],
            "body": [words(~row, 5, 300) for row in range(300)],
        },
        {"template": "{title}\n\n{body}", "system": "Label the sentiment: good, bad or neither."},
    ),
    "captions of images": (
        lambda: {
            "name": [words(row, 1, 20) for row in range(100)],
            "photo": [png(row % 20 + 1) for row in range(100)],
        },
        {"template": "A caption for {name}", "images": ["photo"]},
    ),
    "conversations": (
        lambda: {
            "talk": [
                [{"role": role, "content": words(row * 9 + turn, 1, 60)} for turn, role in enumerate(roles)]
                for row, roles in enumerate([["user"], ["user", "assistant", "user"]] * 100)
            ]
        },
        {"messages_column": "talk"},
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_bill_is_what_its_estimate_said_within_the_stated_margin(name, ask, estimate, tmp_path):
    columns, options = PIPELINES[name]
    path = tmp_path / "input.parquet"
    pq.write_table(pa.table(columns()), path)
    found = estimate(path, **options)
    job = ask(path, **({"prompt_column": None} | options))
    tokens_in, tokens_out, usd, _ = bill(job)
    assert found.counted == 20
    assert 0 < found.input_margin < 0.1
    assert_holds(found, tokens_in, tokens_out, usd)


def test_a_cached_instruction_over_a_thousand_rows_costs_what_the_estimate_said(ask, estimate):
    texts = [words(row, 3, 60) for row in range(1000)]
    options = {"system": words(0, 3_800, 3_800), "cache": "1h"}
    found = estimate(texts, **options)
    tokens_in, tokens_out, usd, total = bill(ask(texts, **options))
    assert total["cache_read_input_tokens"] > 900 * found.cached_tokens > 900 * 4_096
    assert_holds(found, tokens_in, tokens_out, usd)
    assert any("65% cache hits" in note for note in found.notes)


def test_what_is_too_short_to_be_cached_costs_what_it_costs_uncached(estimate):
    texts = [words(row, 3, 60) for row in range(50)]
    short, without = estimate(texts, system="Be brief.", cache="1h"), estimate(texts, system="Be brief.")
    assert short.batch_usd.worst == pytest.approx(without.batch_usd.worst, rel=0.01)
    assert any("too short" in note for note in short.notes)


def test_a_prefix_that_not_every_model_caches_may_cost_nothing_less(estimate):
    system = words(0, 1_000, 1_000)
    texts = [words(row, 3, 60) for row in range(50)]
    found, without = estimate(texts, system=system, cache="5m"), estimate(texts, system=system)
    assert 1_024 < found.cached_tokens < 4_096
    assert found.batch_usd.low < without.batch_usd.low
    assert found.batch_usd.high >= without.batch_usd.high * 0.99
    assert any("Not every model" in note for note in found.notes)


def test_a_live_request_costs_twice_what_a_batch_does(estimate):
    found = estimate(["a", "b"])
    assert found.batch_usd.expected == pytest.approx(BATCH_DISCOUNT * found.live_usd.expected)


def test_rows_are_told_apart_as_a_submit_does(ask, estimate):
    rows = ["a", "a", " ", None, "b", "x" * 2_000]
    found = estimate(rows, max_batch_bytes=1_000)
    status = ask(rows, max_batch_bytes=1_000).status()
    assert (found.rows, found.skipped, found.invalid, found.duplicates) == (6, 2, 1, 1)
    assert (status.rows, status.skipped, status.invalid, status.duplicates) == (6, 2, 1, 1)
    assert (found.requests, found.to_send) == (status.requests, 2)


def test_rows_that_cannot_be_sent_are_named_with_how_many_there_are(estimate):
    table = pa.table({"a": ["x", None, "y", "z" * 2_000, None], "b": ["u", "v", "w", "x", "y"]})
    found = estimate(table, template="{a}{b}", max_batch_bytes=1_000)
    assert found.notes[0].startswith("2 rows cannot be sent (missing_field). Row 2: Column 'a' is null.")
    assert found.notes[1].startswith("1 row cannot be sent (request_too_large). Row 4: The request has 2,")
    assert found.notes[0] in str(found)


def test_what_the_store_has_is_free(ask, estimate):
    ask(["a", "b"]).wait(poll_interval=0.01)
    again, more = estimate(["a", "b"]), estimate(["a", "b", "c"])
    assert (again.answered, again.to_send, again.batch_usd.worst) == (2, 0, 0)
    assert "nothing to send" in str(again)
    assert (more.answered, more.to_send, more.counted) == (2, 1, 1)


def test_what_failed_is_to_be_paid_when_it_is_asked_again(store):
    with cp.Sandbox(rows=lambda *_: "invalid_request_error") as server:
        client = Anthropic(base_url=server.url, api_key="sandbox")
        options = {"prompt_column": "text", "model": MODEL, "max_tokens": 64, "store": store, "client": client}
        cp.submit(prompts(["a"]), **options).wait(poll_interval=0.01)
        found = estimate_cost(prompts(["a"]), **options)
        assert (found.answered, found.to_send) == (0, 1)


def test_another_accounts_answers_are_not_free(ask, estimate):
    ask(["a"]).wait(poll_interval=0.01)
    with cp.Sandbox(workspace="another") as other, Anthropic(base_url=other.url, api_key="sandbox") as client:
        assert estimate(["a"], client=client).to_send == 1


def test_the_length_of_answers_is_learned_from_the_first_rows(ask, estimate):
    texts = [words(row, 3, 60) for row in range(200)]
    before = estimate(texts)
    ask(texts, limit=40).wait(poll_interval=0.01)
    after = estimate(texts)
    _, tokens_out, _, _ = bill(ask(texts))
    rest = tokens_out - bill(ask(texts, limit=40))[1]
    assert (before.learned_from, after.learned_from) == (0, 40)
    assert after.output_tokens.low <= rest <= after.output_tokens.high < before.output_tokens.high


def test_answers_to_another_question_teach_nothing(ask, estimate):
    ask(["a", "b"], system="Be brief.").wait(poll_interval=0.01)
    assert estimate(["c"]).learned_from == 0


def test_every_model_has_its_own_share(ask, estimate):
    table = pa.table(
        {
            "text": [words(row, 3, 60) for row in range(90)],
            "asked": [MODEL, MODEL, "claude-opus-5-5"] * 30,
            "most": [10, 20, 30] * 30,
        }
    )
    options = {"params_columns": {"model": "asked", "max_tokens": "most"}, "model": None, "max_tokens": None}
    found = estimate(table, **options)
    assert [(share.model, share.requests) for share in found.models] == [(MODEL, 60), ("claude-opus-5-5", 30)]
    assert found.output_tokens.worst == 30 * (10 + 20 + 30)
    assert found.batch_usd.expected == pytest.approx(sum(share.batch_usd.expected for share in found.models))
    assert "claude-opus-5-5 (30), batch" in str(found)
    assert_holds(found, *bill(ask(table, **options))[:3])


def test_a_model_without_a_price_is_said_and_never_counted_as_nothing(estimate):
    table = pa.table({"text": ["a", "b"], "model": [MODEL, "claude-of-tomorrow"]})
    found = estimate(table, params_columns={"model": "model"})
    assert (found.batch_usd, found.live_usd, found.unpriced) == (None, None, ("claude-of-tomorrow",))
    assert found.models[0].batch_usd.expected > 0
    assert "unknown" in str(found)
    assert "No price is known of claude-of-tomorrow" in str(found)


def test_a_price_of_ones_own_makes_it_known(estimate, tmp_path, monkeypatch):
    path = tmp_path / "prices.toml"
    path.write_text("[claude-of-tomorrow]\ninput = 1\noutput = 5\n")
    monkeypatch.setenv("CLAUDE_PIPELINE_PRICES", str(path))
    found = estimate(["a"], model="claude-of-tomorrow")
    assert found.batch_usd == estimate(["a"]).batch_usd


def test_long_prompts_are_priced_by_their_own_tier(estimate):
    table = ["x" * 200_000, "y" * 600_000]
    found = estimate(table, model="claude-haiku-5-5", max_tokens=1)
    tokens = 50_000 * 0.1e-6 + 150_000 * 0.5e-6
    assert found.batch_usd.expected == pytest.approx(BATCH_DISCOUNT * tokens, rel=0.01)


def test_without_credentials_sizes_are_told_and_tokens_guessed(store):
    found = estimate_cost(prompts([words(1, 30, 30)]), prompt_column="text", model=MODEL, max_tokens=9, store=store)
    assert (found.counted, found.to_send, found.input_margin >= 0.4) == (0, 1, True)
    assert "There are no credentials" in found.notes[0]
    with pytest.raises(cp.CredentialsError):
        estimate_cost(prompts(["a"]), prompt_column="text", model=MODEL, max_tokens=9, store=store, exact=5)


def test_with_nobody_asked_no_call_is_made_and_the_guess_still_holds(ask, estimate):
    texts = [words(row, 30, 60) for row in range(50)]
    with Anthropic(base_url="http://127.0.0.1:1", api_key="nobody") as nobody:
        found = estimate(texts, exact=0, client=nobody)
        unreachable = estimate(texts, client=nobody)
        with pytest.raises(cp.ApiError, match="could not be reached"):
            estimate(texts, exact=3, client=nobody)
    assert (found.counted, unreachable.counted) == (0, 0)
    assert "Nobody was asked" in found.notes[0]
    assert "could not be reached" in unreachable.notes[0]
    assert_holds(found, *bill(ask(texts))[:3])


def test_with_all_requests_counted_the_tokens_are_exact(ask, estimate):
    texts = [words(row, 3, 60) for row in range(30)]
    found = estimate(texts, exact=30)
    assert (found.counted, found.input_margin) == (30, 0)
    assert found.input_tokens.expected == bill(ask(texts))[0]


def test_the_same_input_gives_the_same_estimate(estimate):
    texts = [words(row, 3, 60) for row in range(100)]
    assert estimate(texts) == estimate(texts)
    assert estimate(texts, exact=5) != estimate(texts)


def test_requests_that_the_api_would_refuse_are_refused_now(estimate):
    with pytest.raises(cp.InputError, match="would refuse the requests to gpt-5"):
        estimate(["a"], model="gpt-5")
    with pytest.raises(cp.InputError, match="max_tokns"):
        estimate(["a"], params={"max_tokns": 1})


def test_what_only_a_submit_needs_does_no_harm(estimate):
    options = {"name": "x", "id_column": "text", "max_cost_usd": 1, "preflight": False, "prime_cache": True}
    assert estimate(["a"], **options) == estimate(["a"])
    submit_alone = cp.SubmitOptions.__optional_keys__ - RequestOptions.__optional_keys__
    assert submit_alone - inspect.signature(cp.estimate).parameters.keys() <= _OF_SUBMIT_ALONE


def test_an_argument_that_there_is_not_is_not_passed_over(estimate):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'systen'\. Did you mean 'system'"):
        estimate(["a"], systen="Be brief.")


@pytest.mark.parametrize("options", [{"exact": 0}, {}])
def test_what_no_batch_takes_is_refused_even_with_nobody_to_ask(options, store):
    asked = {"prompt_column": "text", "model": MODEL, "max_tokens": 9, "store": store, **options}
    with pytest.raises(cp.InputError, match="Did you mean 'stop_sequences'"):
        estimate_cost(prompts(["a"]), params={"stop_sequence": ["x"]}, **asked)
    assert estimate_cost(prompts(["a"]), params={"stop_sequences": ["x"], "top_k": 5}, **asked).to_send == 1


def test_where_others_were_answered_what_is_left_may_be_refused(store):
    with cp.Sandbox() as server, Anthropic(base_url=server.url, api_key="sandbox") as client:
        table = pa.table({"text": ["a", "b"], "model": [MODEL, "gpt-5"]})
        options = {"prompt_column": "text", "params_columns": {"model": "model"}, "max_tokens": 9}
        place = {"store": store, "client": client}
        cp.submit(table, preflight=False, **options, **place).wait(poll_interval=0.01)
        found = estimate_cost(table, **options, **place)
    assert (found.answered, found.to_send, found.counted) == (1, 1, 0)
    assert "The API refuses 1 of 1 requests to gpt-5" in found.notes[0]


@pytest.mark.parametrize(
    ("options", "words_of_it"),
    [
        ({"exact": "all"}, "exact is 'all'. Pass a whole number, 0 or more"),
        ({"exact": -1}, "exact is -1"),
        ({"limit": 0}, "limit is 0"),
        ({"max_batch_requests": 0}, "max_batch_requests is 0"),
    ],
)
def test_figures_that_make_no_sense_are_refused(options, words_of_it, estimate):
    with pytest.raises(cp.InputError, match=words_of_it):
        estimate(["a"], **options)


def test_a_table_without_rows_is_refused(estimate):
    with pytest.raises(cp.InputError, match="has no rows"):
        estimate([])


def test_batches_waves_and_bytes_are_those_of_the_submit(ask, estimate):
    texts = [words(row, 3, 60) for row in range(50)]
    limits = {"max_batch_requests": 20, "max_queued_requests": 45, "max_batch_bytes": 5_000}
    found = estimate(texts, **limits)
    job = ask(texts, **limits).wait(poll_interval=0.01)
    assert found.batches == len(job.status().batches) > 3
    assert found.waves == 2
    assert found.body_bytes <= 5_000 * found.batches


def test_only_the_first_rows_count_under_a_limit(estimate):
    texts = [words(row, 3, 60) for row in range(10)]
    assert estimate(texts, limit=4).rows == 4
    assert estimate(texts, limit=400).rows == 10


def test_nothing_is_made_on_disk(estimate, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    estimate(["a", "b"])
    estimate(["a", "b"], store=None)
    assert sorted(tmp_path.rglob("*")) == before
    assert not store.exists()


def test_nothing_is_sent_and_no_job_is_made(ask, estimate, store, sandbox):
    ask(["a"]).wait(poll_interval=0.01)
    before = sandbox.usage(), cp.list_jobs(store=store)
    estimate(["a", "b"])
    assert (sandbox.usage(), cp.list_jobs(store=store)) == before


def test_an_estimate_is_plain_figures(estimate):
    found = estimate(["a", "b"])
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["batch_usd"]["expected"] == found.batch_usd.expected
    assert msgspec.convert(plain, type(found)) == found


def test_an_estimate_reads_well_in_a_notebook(estimate):
    html = estimate(["a", "b"], model="claude-<b>")._repr_html_()
    assert "WORST CASE" in html
    assert "<b>" not in html
    assert html.startswith(framed("").removesuffix("</div>"))
