"""What a request weighs, told from its bytes."""

import json
from base64 import b64encode
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.calibrating import calibrate
from claude_pipeline.census import WEIGHT, count_waves, pack
from claude_pipeline.costing import Lengths
from claude_pipeline.forms import build_form
from claude_pipeline.measuring import Scales, Weight, cached_prefix, weigh
from claude_pipeline.pricing import PriceList, TokenUsage
from claude_pipeline.prompts import Request
from claude_pipeline.shards import body_bytes

PRICES = PriceList(datetime(2026, 11, 22, tzinfo=UTC))
MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def params(content, **others):
    """Write the `params` of a request as the product does."""
    asked = {"model": "m", "max_tokens": 7, **others, "messages": [{"role": "user", "content": content}]}
    return json.dumps(asked, ensure_ascii=False, separators=(",", ":")).encode()


def image(size=100):
    """Make an image's block with so many bytes of base64."""
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * size}}


def said(*parts):
    """Count the bytes of some parts of a prompt as JSON."""
    return sum(len(json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()) for part in parts)


@given(TEXTS, TEXTS)
def test_the_bytes_of_a_prompt_are_those_of_its_system_prompt_and_messages(text, system):
    weight = weigh(params(text, system=system, stop_sequences=["x"]))
    assert weight == Weight("m", 7, said(system, [{"role": "user", "content": text}]))


@given(st.lists(TEXTS, min_size=1), TEXTS)
def test_where_only_texts_differ_the_quick_scales_say_what_the_slow_ones_do(texts, beginning):
    schema = pa.schema([("text", pa.string())])
    beginning = beginning.replace("{", "(")
    form = build_form(schema, source="t", template=beginning + "{text}", system="Be brief.", model="m", max_tokens=7)
    rendered = form.render(pa.record_batch([pa.array(texts)], schema=schema))
    scales = Scales(form)
    for request in rendered:
        assert isinstance(request, Request)
        assert scales.weigh(request.params) == weigh(request.params)


@pytest.mark.parametrize("source", ["https://x.org/a.png", {"type": 5}, None, [1], {"type": "base64", "data": 5}])
def test_a_source_that_the_api_refuses_is_weighed_all_the_same(source):
    weight = weigh(params([{"type": "image", "source": source}]))
    assert (weight.images, weight.text_bytes > 0) == (1, True)


@given(st.integers(0, 10_000), TEXTS)
def test_the_bytes_of_an_image_are_no_text(size, text):
    block = {"type": "text", "text": text}
    one, other = weigh(params([image(size), block])), weigh(params([image(0), block]))
    assert (one.images, one.text_bytes) == (1, other.text_bytes)


def test_images_are_found_however_deep_they_are():
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image(), {"type": "text", "text": "x"}]}
    document = {"type": "document", "source": {"type": "content", "content": [image()]}}
    assert weigh(params([result, document, image()])).images == 3


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ({"type": "base64", "media_type": "application/pdf", "data": b64encode(bytes(30_000)).decode()}, 30_000),
        ({"type": "base64", "media_type": "application/pdf", "data": b64encode(bytes(3_000_000)).decode()}, 400_000),
        ({"type": "url", "url": "https://example.com/a.pdf"}, 400_000),
        ({"type": "file", "file_id": "file_1"}, 400_000),
        ({"type": "text", "media_type": "text/plain", "data": "text"}, 0),
    ],
)
def test_a_document_weighs_its_bytes_and_an_unseen_one_the_most_there_is(source, size):
    assert weigh(params([{"type": "document", "source": source}])).document_bytes == size


@pytest.mark.parametrize(
    "content", [[], [1], ["x"], [{"content": {"a": 1}}], [{"type": "search_result", "source": "u"}]]
)
def test_content_of_any_other_shape_is_text(content):
    assert weigh(params(content)).text_bytes == said([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("content", "lifetime"),
    [("plain", None), ('"cache_control":"ttl":"1h"', None), ([{"type": "text", "text": "x", **MARK}], "1h")],
)
def test_what_is_cached_is_told_by_its_mark_and_not_by_a_text_that_speaks_of_it(content, lifetime):
    assert weigh(params(content)).lifetime == lifetime


@given(TEXTS, st.integers(1, 1000))
def test_the_worst_case_is_never_below_a_token_for_every_three_bytes_and_the_longest_answer(text, most):
    weight = Weight("claude-haiku-4-5", most, len(text.encode()))
    least = TokenUsage(input=len(text.encode()) // 3, output=most)
    assert weight.worst_case_usd(PRICES) >= PRICES.usd("claude-haiku-4-5", least)


def test_the_worst_case_of_what_is_to_be_cached_is_that_all_of_it_is_written():
    weight = Weight("claude-haiku-4-5", 1, 3_000, lifetime="1h")
    written = TokenUsage(cache_write_1h=weight.most_tokens, output=1)
    assert weight.worst_case_usd(PRICES) == PRICES.usd("claude-haiku-4-5", written)


def test_the_worst_case_at_an_unknown_price_is_unknown():
    assert Weight("claude-of-tomorrow", 1, 1).worst_case_usd(PRICES) is None


def test_a_prefix_ends_where_the_last_mark_is():
    first, last = {"type": "text", "text": "first", **MARK}, {"type": "text", "text": "last"}
    tools = [{"name": "t", **MARK}]
    in_message = cached_prefix(json.loads(params([first, last], system="s")))
    in_system = cached_prefix(json.loads(params("x", system=[first, last])))
    in_tools = cached_prefix(json.loads(params("x", system="s", tools=tools)))
    assert (in_message["system"], in_message["messages"][0]["content"]) == ("s", [first])
    assert (in_system["system"], in_system["messages"][0]["content"]) == ([first], ".")
    assert (in_tools["tools"], in_tools.keys() & {"system"}) == (tools, set())


def weights(texts, images=0):
    """Make weights of texts of so many bytes."""
    found = np.zeros(len(texts), dtype=WEIGHT)
    found["text"], found["images"] = texts, images
    return found


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=50), st.integers(0, 3))
def test_with_every_request_counted_the_sum_is_exact(texts, images):
    every = weights(texts, images)
    counted = np.array(texts) / 4 + 300.0 * images + 10
    prediction = calibrate(every, np.arange(len(texts)), counted)
    assert prediction.total == pytest.approx(counted.sum())
    assert prediction.margin == 0


@pytest.mark.parametrize("counted", [1, 2, 5, 20, 100])
def test_what_is_linear_is_predicted_to_the_token_and_the_margin_shrinks_with_the_counts(counted):
    rng = np.random.default_rng(1)
    every = weights(rng.integers(100, 10_000, 1000), rng.integers(0, 3, 1000))
    truth = every["text"] / 4 + 1_500.0 * every["images"] + 30
    prediction = calibrate(every, np.arange(counted), truth[:counted])
    off = abs(prediction.total / truth.sum() - 1)
    assert off <= prediction.margin
    assert prediction.margin >= 0.9 / (2 * counted)
    assert counted < 20 or off < 1e-6


def test_the_margin_holds_for_nineteen_of_twenty_noisy_samples():
    rng = np.random.default_rng(2)
    every = weights(rng.lognormal(6, 1, 3000).astype(int) + 1)
    truth = every["text"] / rng.uniform(2.5, 5, 3000)
    held = 0
    for _ in range(400):
        chosen = rng.choice(3000, 20, replace=False)
        prediction = calibrate(every, chosen, truth[chosen])
        held += abs(prediction.total / truth.sum() - 1) <= prediction.margin
    assert held >= 0.93 * 400


@pytest.mark.parametrize("tokens", [100.0, 1_500.0, 2_900.0])
def test_images_that_a_sample_hardly_has_are_not_forgotten(tokens):
    rng = np.random.default_rng(3)
    every = weights(rng.integers(100, 400, 2000), rng.random(2000) < 0.03)
    truth = every["text"] / 4 + tokens * every["images"] + 10
    for _ in range(100):
        chosen = rng.choice(2000, 20, replace=False)
        prediction = calibrate(every, chosen, truth[chosen])
        assert abs(prediction.total - truth.sum()) <= prediction.margin * prediction.total


def test_requests_of_one_size_need_no_slope():
    every = weights([500] * 1000)
    counted = np.array([100.0, 110, 90, 105, 95] * 4)
    prediction = calibrate(every, np.arange(20), counted)
    assert prediction.total == pytest.approx(100_000)
    assert 0.03 < prediction.margin < 0.05


def test_answers_without_a_token_teach_that_there_may_be_none():
    lengths = Lengths.of(np.array([64.0, 64.0]), np.zeros(5))
    assert (lengths.total.expected, lengths.total.high, lengths.total.worst) == (0, 0, 128)


@given(st.lists(st.integers(100, 1000), min_size=1, max_size=60), st.integers(1, 7), st.integers(1100, 3000))
def test_batches_are_packed_up_to_their_limits_and_no_further(sizes, most, room):
    shards = pack(np.array(sizes), max_requests=most, max_bytes=room)
    assert sum(requests for requests, _ in shards) == len(sizes)
    starts = np.cumsum([0, *(requests for requests, _ in shards)])
    for start, (requests, size) in zip(starts, shards, strict=False):
        stop = start + requests
        assert requests <= most
        assert size == body_bytes(np.array(sizes[start:stop])) <= room
        assert stop == len(sizes) or requests == most or body_bytes(np.array(sizes[start : stop + 1])) > room


def test_a_wave_is_what_the_queue_holds():
    shards = [(100, 1), (100, 1), (50, 1)]
    assert [count_waves(shards, max_queued=queued) for queued in (10, 100, 150, 200, 250)] == [3, 3, 2, 2, 1]
    assert count_waves([], max_queued=1) == 0
