"""Streams of every kind of answer, as the official SDK reads them."""

import json
from contextlib import contextmanager

import anthropic
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from claude_pipeline.sandbox import Sandbox
from claude_pipeline.sandbox.answers import answer, facts, refused, truncated
from claude_pipeline.sandbox.stream import stream_events

EVENT = TypeAdapter(RawMessageStreamEvent)
KEYS_OF_A_MESSAGE = anthropic.types.Message.model_fields.keys()
QUESTION = "Which harbor has 3 cranes? Say it in one sentence — ñ, 漢字 and 🎉 included."
TOOL = {
    "name": "label",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 30}, "tags": {"type": "array", "minItems": 2}},
        "required": ["text", "tags"],
    },
}
FORMAT = {"format": {"type": "json_schema", "schema": TOOL["input_schema"] | {"additionalProperties": False}}}
DOCUMENTS = [
    {"type": "document", "source": source, "title": "Harbors", "citations": {"enabled": True}}
    for source in (
        {"type": "text", "media_type": "text/plain", "data": "Bergen has rain. The harbor of Oslo has 3 cranes."},
        {"type": "content", "content": [{"type": "text", "text": "The harbor has 3 blue cranes. One sentence."}]},
    )
]
THINKING = {"type": "enabled", "budget_tokens": 1024}
KINDS = {
    "text": {},
    "stop sequence": {"stop_sequences": ["cranes"]},
    "cut text": {"max_tokens": 3},
    "tool use": {"tools": [TOOL]},
    "tool use cut in a string": {"tools": [TOOL], "max_tokens": 4},
    "tool use cut in an array": {"tools": [TOOL], "max_tokens": 18},
    "forced tool use": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "label"}},
    "JSON": {"output_config": FORMAT},
    "cut JSON": {"output_config": FORMAT, "max_tokens": 5},
    "thoughts": {"thinking": THINKING},
    "thoughts before a tool use": {"thinking": THINKING, "tools": [TOOL]},
    "hidden thoughts": {"thinking": {"type": "adaptive", "display": "omitted"}, "system": "Think.", "long": True},
    "characters cited": {"content": [DOCUMENTS[0], {"type": "text", "text": QUESTION}]},
    "a block cited": {"content": [DOCUMENTS[1], {"type": "text", "text": QUESTION}]},
}


def ask(*, content=QUESTION, long=False, **params):
    messages = [{"role": "user", "content": content * 5 if long else content}]
    return {"model": "claude-haiku-4-5", "max_tokens": 4_000, "messages": messages, **params}


def message_of(params, *, write=facts, alter=lambda answer: answer):
    return alter(answer(params, write=write)).message(json.dumps(params).encode(), service_tier="standard")


def events_of(message):
    """Read the events; each is of the API's types, and complete in itself."""
    events = []
    for event in stream_events(message):
        name, data, *rest = event.decode().split("\n")
        assert rest == ["", ""]
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        if events[-1]["type"] != "ping":
            EVENT.validate_json(data.removeprefix("data: "), strict=False)
    return events


@contextmanager
def strict_client(sandbox):
    with anthropic.Anthropic(
        api_key="any", base_url=sandbox.url, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def without_ids(message):
    """Return what a message says; its ids differ, as `stream` is part of the request."""
    said = message.to_dict()
    for block in [said, *said["content"]]:
        block.pop("parsed_output", None)
        block.pop("id", None)
    return said


@pytest.fixture(scope="module")
def client():
    with Sandbox() as sandbox, strict_client(sandbox) as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_streamed_is_what_is_answered_at_once(client, kind):
    params = ask(**KINDS[kind])
    plain = client.messages.create(**params)
    with client.messages.stream(**params) as stream:
        streamed = stream.get_final_message()
    assert without_ids(streamed) == without_ids(plain)
    assert plain.to_dict(exclude_unset=True).keys() == KEYS_OF_A_MESSAGE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BLOCKS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text()),
    st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "c2lnbmVk"}, st.text()),
    st.builds(lambda data: {"type": "redacted_thinking", "data": data}, st.text()),
    st.builds(
        lambda value: {"type": "tool_use", "name": "label", "input": value},
        st.dictionaries(st.text(), JSON, max_size=4),
    ),
)


@pytest.fixture(scope="module")
def dictated():
    """Run a sandbox that answers with what is put under "blocks"."""
    said = {}
    with Sandbox(answer=lambda _params: said["blocks"]) as sandbox, strict_client(sandbox) as client:
        yield said, client


@given(
    blocks=st.lists(BLOCKS, max_size=4),
    max_tokens=st.integers(1, 30) | st.just(4_000),
    stops=st.lists(st.sampled_from("aeb0"), max_size=2),
)
def test_any_blocks_cut_anywhere_stream_as_they_are_answered(dictated, blocks, max_tokens, stops):
    said, client = dictated
    said["blocks"] = blocks
    params = ask(max_tokens=max_tokens, stop_sequences=stops)
    plain = client.messages.create(**params)
    with client.messages.stream(**params) as stream:
        assert without_ids(stream.get_final_message()) == without_ids(plain)


def test_a_stream_begins_empty_and_ends_with_why_and_how_much():
    message = message_of(ask())
    events = events_of(message)
    begun, ended = events[0]["message"], events[-2]
    assert (begun["content"], begun["stop_reason"], begun["usage"]["output_tokens"]) == ([], None, 1)
    assert begun["usage"]["input_tokens"] == message.usage.input_tokens
    assert begun.keys() == KEYS_OF_A_MESSAGE
    assert ended["delta"] == {
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
    }
    assert ended["usage"]["output_tokens"] == message.usage.output_tokens
    assert events[-1] == {"type": "message_stop"}
    assert [event["type"] for event in events[1:4]] == ["content_block_start", "ping", "content_block_delta"]


def test_the_pieces_of_a_text_are_the_text_and_whole_characters():
    message = message_of(ask(content="漢字🎉ñ" * 50))
    deltas = [event["delta"]["text"] for event in events_of(message) if event["type"] == "content_block_delta"]
    assert len(deltas) > 5
    assert "".join(deltas) == message.content[0].text


def test_a_tool_input_begins_with_an_empty_piece_and_is_whole_at_the_blocks_end():
    message = message_of(ask(tools=[TOOL]))
    pieces = [event["delta"]["partial_json"] for event in events_of(message) if event["type"] == "content_block_delta"]
    assert pieces[0] == ""
    assert len(pieces) > 3
    assert json.loads("".join(pieces)) == message.content[0].input


def test_a_cut_tool_input_is_no_json_on_the_wire():
    message = message_of(ask(tools=[TOOL], max_tokens=18))
    pieces = [event["delta"]["partial_json"] for event in events_of(message) if event["type"] == "content_block_delta"]
    assert message.stop_reason == "max_tokens"
    with pytest.raises(json.JSONDecodeError):
        json.loads("".join(pieces))


def test_thoughts_come_in_pieces_and_are_signed_at_the_end():
    message = message_of(ask(thinking=THINKING))
    deltas = [event["delta"] for event in events_of(message) if event.get("index") == 0 and "delta" in event]
    assert [delta["type"] for delta in deltas[-2:]] == ["thinking_delta", "signature_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == message.content[0].thinking
    assert deltas[-1]["signature"] == message.content[0].signature


def test_citations_come_as_deltas_of_their_own():
    message = message_of(ask(**KINDS["characters cited"]))
    begun = next(event["content_block"] for event in events_of(message) if event["type"] == "content_block_start")
    assert begun == {"type": "text", "text": "", "citations": []}
    deltas = [event["delta"] for event in events_of(message) if event["type"] == "content_block_delta"]
    assert deltas[0] == {"type": "citations_delta", "citation": message.content[0].citations[0]}


def test_a_refusal_streams_no_block_and_says_why():
    *_, ending, _ = events_of(message_of(ask(), alter=refused))
    assert ending["delta"]["stop_reason"] == "refusal"
    assert ending["delta"]["stop_details"].keys() == {"type", "category", "explanation"}
    assert [event["type"] for event in events_of(message_of(ask(), alter=refused))] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_answer_of_any_kind_streams(kind):
    events = events_of(message_of(ask(**KINDS[kind]), alter=truncated))
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
