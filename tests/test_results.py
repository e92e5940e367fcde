"""From result lines to Arrow: which lines came, what each says, and who is asked again."""

import io
import json
import os
import tempfile
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pipeline.errors import ResultsError
from claude_pipeline.lines import judge
from claude_pipeline.pricing import PriceList
from claude_pipeline.results import DECODE_BYTES, RESULT_SCHEMA, decode
from claude_pipeline.shards import Members
from claude_pipeline.spooling import spool_lines

PRICES = PriceList(datetime(2026, 11, 22, tzinfo=UTC))
USAGE = {
    "input_tokens": 10,
    "output_tokens": 5,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "service_tier": "batch",
}


def members(count):
    return Members(b"".join(address(row) for row in range(count)), np.arange(count))


def address(row):
    """Return an address whose first half is that of one other."""
    return (row // 2).to_bytes(8) + row.to_bytes(8)


def succeeded(*content, **message):
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }
    return {"type": "succeeded", "message": body | message}


def text(value):
    return {"type": "text", "text": value}


def errored(error_type, message="No."):
    error = {"type": error_type, "message": message}
    return {"type": "errored", "error": {"type": "error", "error": error, "request_id": "req_1"}}


def line(row, result):
    return json.dumps({"custom_id": address(row).hex(), "result": result}).encode() + b"\n"


def decode_all(results):
    """Return the rows and the verdicts of results, of which the n-th belongs to the n-th request."""
    with tempfile.TemporaryFile() as file:
        spool = spool_lines([line(row, result) for row, result in enumerate(results)], members(len(results)), file)
        runs = list(decode(file, spool, PRICES))
    return [row for run in runs for row in run.batch.to_pylist()], [verdict for run in runs for verdict in run.verdicts]


def decode_one(result):
    (row,), (verdict,) = decode_all([result])
    return row, verdict


@given(st.permutations(range(8)), st.lists(st.integers(1, 400), max_size=20), st.sampled_from([b"", b"\n", b"\r\n\n"]))
def test_lines_in_any_order_cut_anywhere_are_decoded_in_the_order_of_the_shard(order, cuts, ending):
    whole = b"".join(line(row, succeeded(text(f"answer {row}\u2028é🙂"))) for row in order).rstrip(b"\n") + ending
    edges = [0, *sorted({cut % len(whole) for cut in cuts}), len(whole)]
    chunks = [whole[start:stop] for start, stop in pairwise(edges)]
    with tempfile.TemporaryFile() as file:
        spool = spool_lines(chunks, members(8), file)
        (decoded,) = decode(file, spool, PRICES)
    assert decoded.batch.column("response").to_pylist() == [f"answer {row}\u2028é🙂" for row in range(8)]


@pytest.mark.parametrize("chunk", [10_007, 1 << 20, 1 << 30])
def test_a_long_file_is_decoded_in_runs_however_it_comes(chunk):
    long = "." * (DECODE_BYTES // 3)
    whole = b"".join(line(row, succeeded(text(f"{row}{long}"))) for row in range(8))
    with tempfile.TemporaryFile() as file:
        spool = spool_lines((whole[at : at + chunk] for at in range(0, len(whole), chunk)), members(8), file)
        runs = [run.batch.column("response").to_pylist() for run in decode(file, spool, PRICES)]
    assert len(runs) > 1
    assert [response[0] for run in runs for response in run] == list("01234567")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([], "2 missing"),
        ([line(0, succeeded())], "1 missing"),
        ([line(0, succeeded()), line(0, succeeded()), line(1, succeeded())], "1 doubled"),
        ([line(0, succeeded()), line(1, succeeded()), line(2, succeeded())], "1 unknown"),
        ([line(0, succeeded()), line(1, succeeded()), b'{"custom_id":"mine"}\n'], "1 unknown"),
        ([line(0, succeeded()), line(1, succeeded()), b"<html>\n"], "1 unreadable"),
        ([line(0, succeeded()), line(1, succeeded())[:30]], "1 unreadable, 1 missing"),
    ],
)
def test_a_file_that_is_not_what_was_sent_is_an_error_that_counts(lines, fault):
    with pytest.raises(ResultsError, match=f"The results of 2 requests do not agree with what was sent: {fault}"):
        spool_lines(lines, members(2), io.BytesIO())


def test_a_file_that_begins_with_a_strangers_line_is_read_no_further():
    def chunks():
        yield line(7, succeeded()) + line(0, succeeded())[:20]
        pytest.fail("It was read further.")

    with pytest.raises(ResultsError, match="The first result belongs to none of the 2 requests") as found:
        spool_lines(chunks(), members(2), io.BytesIO())
    assert found.value.strangers


@pytest.mark.parametrize("spoiled", [b'"\xff"', b'{"custom_id":"\xff"}'])
def test_bytes_that_are_no_text_are_unreadable(spoiled):
    with pytest.raises(ResultsError, match="1 unreadable, 1 missing"):
        spool_lines([line(0, succeeded()), spoiled], members(2), io.BytesIO())


def test_an_answer_whose_bytes_are_no_text_is_no_result():
    spoiled = line(0, succeeded(text("Hi"))).replace(b"Hi", b"\xff")
    with tempfile.TemporaryFile() as file:
        spool = spool_lines([spoiled], members(1), file)
        with pytest.raises(ResultsError, match="A result line is not what the API documents"):
            list(decode(file, spool, PRICES))


def test_a_line_that_is_no_result_is_shown():
    with pytest.raises(ResultsError, match=r"A result line is not what the API documents .*custom_id"):
        decode_all([{"type": "succeeded", "message": "Hello"}])


def test_an_answer_keeps_every_column():
    row, verdict = decode_one(succeeded(text("Hi"), stop_reason="max_tokens"))
    assert verdict == "succeeded"
    assert row == {
        "result_type": "succeeded",
        "response": "Hi",
        "stop_reason": "max_tokens",
        "model": "claude-haiku-4-5",
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cost_usd": pytest.approx((10 * 1 + 5 * 5) / 1e6 / 2),
        "error_type": None,
        "error_message": None,
        "request_id": None,
        "line": None,
    }


@pytest.mark.parametrize("stop_reason", ["refusal", "pause_turn", "model_context_window_exceeded", "of tomorrow", None])
def test_an_answer_is_an_answer_whatever_its_stop_reason(stop_reason):
    row, verdict = decode_one(succeeded(text("Hi"), stop_reason=stop_reason))
    assert (verdict, row["stop_reason"]) == ("succeeded", stop_reason)


@pytest.mark.parametrize(
    ("content", "response"),
    [
        ([], None),
        ([text("")], ""),
        ([text("a"), text("b")], "ab"),
        ([{"type": "thinking", "thinking": "Hm.", "signature": "x"}, text("a")], "a"),
        ([{"type": "tool_use", "id": "t", "name": "n", "input": {"text": "no"}}], None),
        ([{"type": "block_of_tomorrow", "text": "no"}, text("a")], "a"),
    ],
)
def test_the_response_is_the_text_blocks_by_type_and_never_by_position(content, response):
    assert decode_one(succeeded(*content))[0]["response"] == response


@pytest.mark.parametrize(
    "content",
    [
        [],
        [text("a"), text("b")],
        [{"type": "tool_use", "id": "t", "name": "n", "input": {}}],
        [text("a") | {"citations": [{}]}],
    ],
)
def test_a_line_that_is_more_than_one_plain_text_is_kept_whole(content):
    result = succeeded(*content)
    assert decode_one(result)[0]["line"] == line(0, result).rstrip(b"\n")


def test_cached_tokens_are_priced_as_such():
    usage = USAGE | {
        "cache_read_input_tokens": 1_000,
        "cache_creation_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "server_tool_use": {"web_search_requests": 2},
    }
    row, _ = decode_one(succeeded(text("Hi"), usage=usage))
    tokens = 10 * 1 + 1_000 * 0.1 + 100 * 1.25 + 200 * 2 + 5 * 5
    assert row["cost_usd"] == pytest.approx(tokens / 1e6 / 2 + 2 * 0.01)
    assert (row["cache_read_input_tokens"], row["cache_creation_input_tokens"]) == (1_000, 300)


def test_usage_without_cache_counts_is_no_error():
    bare = {"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": None}
    row, _ = decode_one(succeeded(text("Hi"), usage=bare))
    assert (row["cache_read_input_tokens"], row["cost_usd"]) == (None, pytest.approx(3e-6))


def test_an_unknown_model_has_no_cost():
    assert decode_one(succeeded(text("Hi"), model="claude-of-tomorrow"))[0]["cost_usd"] is None


def test_an_error_has_two_layers_and_costs_nothing():
    row, verdict = decode_one(errored("overloaded_error", "Later."))
    assert verdict == "again"
    assert {name: value for name, value in row.items() if value is not None and name != "line"} == {
        "result_type": "errored",
        "cost_usd": 0.0,
        "error_type": "overloaded_error",
        "error_message": "Later.",
        "request_id": "req_1",
    }


@pytest.mark.parametrize(("result_type", "verdict"), [("canceled", "canceled"), ("expired", "again")])
def test_a_row_that_was_not_processed_says_so_and_costs_nothing(result_type, verdict):
    row, judged = decode_one({"type": result_type})
    assert (row["result_type"], row["cost_usd"], judged) == (result_type, 0.0, verdict)


def test_fields_of_tomorrow_are_no_error():
    result = succeeded(text("Hi") | {"new": 1}, new={"deep": []}) | {"new": 2}
    assert decode_one(result)[0]["response"] == "Hi"


def test_every_kind_of_result_has_the_same_columns():
    rows, _ = decode_all([succeeded(text("a")), errored("api_error"), {"type": "canceled"}, {"type": "expired"}])
    assert [list(row) for row in rows] == [RESULT_SCHEMA.names] * 4


@pytest.mark.parametrize("nothing", ["invalid_request_error", "not_found_error", "request_too_large"])
def test_what_would_fail_again_is_final(nothing):
    assert judge(nothing, "No.") == "final"


@pytest.mark.parametrize("passing", ["api_error", "overloaded_error", "rate_limit_error", "timeout_error", "tomorrow"])
def test_what_may_pass_is_asked_again(passing):
    assert judge(passing, "No.") == "again"


@pytest.mark.parametrize("account", ["authentication_error", "permission_error", "billing_error"])
def test_what_the_account_must_mend_is_the_accounts(account):
    assert judge(account, "No.") == "account"


@pytest.mark.parametrize("error_type", ["invalid_request_error", "api_error"])
def test_a_credit_that_is_too_low_is_known_by_its_message_before_its_type(error_type):
    assert judge(error_type, "Your credit balance is too low to access the Anthropic API.") == "account"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_of_an_answer_comes_back_as_it_was(value):
    assert decode_one(succeeded(text(value)))[0]["response"] == value


def test_a_spooled_file_holds_the_bytes_that_came():
    lines = [line(row, succeeded(text("x" * row))) for row in range(3)]
    with tempfile.TemporaryFile() as file:
        spool = spool_lines(lines[::-1], members(3), file)
        for row, (offset, length) in enumerate(zip(spool.offsets.tolist(), spool.lengths.tolist(), strict=True)):
            assert os.pread(file.fileno(), length, offset) == lines[row].rstrip(b"\n")
