"""A streamed message from its bytes, wherever they are cut."""

from itertools import pairwise

import msgspec
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from claude_pipeline.assembling import Assembly
from claude_pipeline.errors import ApiError
from claude_pipeline.events import EventReader


def sse(*events, ending=b"\n"):
    """Write events as the API does."""
    return b"".join(
        b"event: %s%sdata: %s%s%s" % (event["type"].encode(), ending, msgspec.json.encode(event), ending, ending)
        for event in events
    )


def message(**known):
    empty = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": []}
    ends = {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1}}
    return {"type": "message_start", "message": empty | ends | known}


def start(index, **block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index, kind, **piece):
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **piece}}


def stop(index):
    return {"type": "content_block_stop", "index": index}


def end(reason="end_turn", **usage):
    ending = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 9} | usage},
        {"type": "message_stop"},
    ]


TEXT = [message(), start(0, type="text", text=""), delta(0, "text_delta", text="a"), stop(0), *end()]


def assemble(events):
    assembly = Assembly()
    for event in events:
        assembly.add(msgspec.json.encode(event))
    return msgspec.json.decode(msgspec.json.encode(assembly.message()))


def cut(data, places):
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[first:stop] for first, stop in pairwise(edges)]


@given(st.lists(st.text(), min_size=1), st.lists(st.integers(0)), st.sampled_from([b"\n", b"\r\n"]))
def test_any_text_arrives_wherever_the_stream_is_cut(texts, places, ending):
    events = [delta(0, "text_delta", text=text) for text in texts]
    reader = EventReader()
    found = [data for chunk in cut(sse(*events, ending=ending), places) for data in reader.feed(chunk)]
    assert [msgspec.json.decode(data) for data in found] == events


def test_comments_and_events_without_data_say_nothing_and_data_may_have_several_lines():
    reader = EventReader()
    assert [*reader.feed(b': hello\n\nevent: ping\n\ndata: {"a":\ndata: 1}\n\n')] == [b' {"a":\n 1}']


def test_an_event_without_its_empty_line_has_not_come():
    reader = EventReader()
    assert [*reader.feed(b'data: {"type":"ping"}\n')] == []
    assert [*reader.feed(b"\n")] == [b' {"type":"ping"}']


@given(st.lists(st.text()))
def test_pieces_of_text_become_one_block_and_usage_is_the_last_that_was_said(texts):
    pieces = [delta(0, "text_delta", text=text) for text in texts]
    whole = assemble([message(), start(0, type="text", text=""), *pieces, stop(0), *end(input_tokens=None)])
    assert [block.get("text", "") for block in whole["content"]] == ["".join(texts)]
    assert whole["usage"] == {"input_tokens": 3, "output_tokens": 9}
    assert (whole["stop_reason"], whole["id"], whole["model"]) == ("end_turn", "msg_1", "claude-haiku-4-5")


JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5)


@given(st.dictionaries(st.text(), JSON), st.lists(st.integers(0)))
def test_the_input_of_a_tool_is_whatever_its_pieces_make(value, places):
    pieces = cut(msgspec.json.encode(value).decode(), places)
    deltas = [delta(0, "input_json_delta", partial_json=piece) for piece in ["", *pieces]]
    tool = start(0, type="tool_use", id="toolu_1", name="note", input={})
    assert assemble([message(), tool, *deltas, stop(0), *end("tool_use")])["content"][0]["input"] == value


def test_a_tool_without_pieces_keeps_the_input_that_it_began_with():
    tool = start(0, type="tool_use", id="toolu_1", name="note", input={})
    assert assemble([message(), tool, stop(0), *end("tool_use")])["content"][0]["input"] == {}


def test_a_tools_input_that_is_no_json_is_no_answer_unless_max_tokens_cut_it_off():
    tool = start(0, type="tool_use", id="toolu_1", name="note", input={})
    events = [message(), tool, delta(0, "input_json_delta", partial_json='{"a": '), stop(0)]
    with pytest.raises(ApiError, match="no JSON"):
        assemble([*events, *end("tool_use")])
    assert assemble([*events, *end("max_tokens")])["content"][0]["input"] == {}


def test_thinking_and_citations_are_kept_where_they_belong():
    cited = {"type": "char_location", "cited_text": "x", "document_index": 0}
    whole = assemble(
        [
            message(),
            start(0, type="thinking", thinking="", signature=""),
            *(delta(0, "thinking_delta", thinking=piece) for piece in ("let me ", "see")),
            delta(0, "signature_delta", signature="c2ln"),
            stop(0),
            start(1, type="text", text="", citations=[]),
            delta(1, "citations_delta", citation=cited),
            delta(1, "text_delta", text="x it is"),
            stop(1),
            *end(),
        ]
    )
    assert whole["content"] == [
        {"type": "thinking", "thinking": "let me see", "signature": "c2ln"},
        {"type": "text", "text": "x it is", "citations": [cited]},
    ]


def test_blocks_events_and_deltas_of_tomorrow_do_no_harm():
    tomorrow = start(1, type="hologram", cells=[1, 2])
    odd = [{"type": "aura"}, {"type": "ping"}, delta(1, "hologram_delta", cell=3), delta(7, "text_delta", text="?")]
    whole = assemble([*TEXT[:4], tomorrow, *odd, stop(1), *TEXT[4:]])
    assert whole["content"] == [{"type": "text", "text": "a"}, {"type": "hologram", "cells": [1, 2]}]


@pytest.mark.parametrize("events", range(len(TEXT)))
def test_a_stream_that_ends_before_its_message_is_no_answer(events):
    with pytest.raises(ApiError, match="ended before the answer did"):
        assemble(TEXT[:events])


def test_an_error_in_the_stream_is_raised_in_the_apis_words():
    with pytest.raises(ApiError, match="Overloaded") as raised:
        assemble([*TEXT[:3], {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}])
    assert raised.value.error_type == "overloaded_error"


@pytest.mark.parametrize("data", [b"", b"<html>", b'{"type": 1}', b'{"type":"message_start"}', b"\xff", b'"\xc3"'])
def test_what_is_no_event_is_an_error_of_ours(data):
    with pytest.raises(ApiError, match="not what the API documents"):
        Assembly().add(data)


def test_the_events_of_these_tests_are_those_of_the_sdk():
    for event in TEXT:
        TypeAdapter(RawMessageStreamEvent).validate_python(event)
