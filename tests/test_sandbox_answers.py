"""What the sandbox answers, by what the request asks for."""

import json
import re
import sys

import anthropic
import msgspec
import pytest
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import validate
from pydantic import TypeAdapter

from claude_pipeline.sandbox import Sandbox
from claude_pipeline.sandbox.answers import (
    AnswerError,
    answer,
    answer_function,
    echo,
    facts,
    input_tokens,
    refused,
    truncated,
)

MESSAGE = TypeAdapter(Message)
TEXT = {"type": "text", "text": "What is in it?"}
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "words": {"type": "array", "items": {"type": "string"}}},
    "required": ["label", "words"],
    "additionalProperties": False,
}
TOOLS = [{"name": name, "input_schema": SCHEMA} for name in ("first", "second", "third")]
FORMAT = {"format": {"type": "json_schema", "schema": SCHEMA}}
RESULT = [
    {"role": "user", "content": "Look it up."},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "first", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Found it. Twice."}]},
]
BAD_ANSWERS = [
    *(None, 3, b"bytes", "\ud800", [3], [{}], [{"type": 3}], [{"type": "text"}], {"stop_reason": "end_turn"}),
    *({"content": 3}, {"content": "x", "stop_raeson": "end_turn"}, {"content": "x", "stop_reason": "bored"}),
    *([{"type": "tool_use", "name": "x", "input": []}], [{"type": "text", "text": {1}}], {"content": "\ud800"}),
]


def ask(content="The sky is blue. The sea is not.", **params):
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 1_000,
        "messages": [{"role": "user", "content": content}],
        **params,
    }


def message_of(params, *, write=facts, alter=lambda answer: answer):
    """Answer; what comes is a message of the SDK's type."""
    message = alter(answer(params, write=write)).message(json.dumps(params).encode(), service_tier="batch")
    encoded = msgspec.json.encode(message)
    shown: dict = json.loads(encoded)
    assert json.loads(MESSAGE.dump_json(MESSAGE.validate_json(encoded))) == shown
    return shown


def cite(*sources, question="What is in it?"):
    documents = [{"type": "document", "source": source, "citations": {"enabled": True}} for source in sources]
    message = message_of(ask([*documents, {"type": "text", "text": question}]))
    (block,) = message["content"]
    (citation,) = block["citations"]
    return block["text"], citation


def text_source(data):
    return {"type": "text", "media_type": "text/plain", "data": data}


def test_facts_is_the_first_sentence_and_echo_all_of_the_last_user_turn():
    assert message_of(ask())["content"][0]["text"] == "The sky is blue."
    assert message_of(ask(" Twice \n"), write=echo)["content"][0]["text"] == " Twice \n"


@pytest.mark.parametrize("write", [facts, echo])
def test_a_prompt_without_text_is_answered_with_text(write):
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}
    assert message_of(ask([image]), write=write)["content"][0]["text"]


@pytest.mark.parametrize("write", [facts, echo])
@pytest.mark.parametrize("choice", [{}, {"tool_choice": {"type": "auto"}}, {"tool_choice": {"type": "any"}}])
def test_tools_are_used_with_an_input_that_fits(write, choice):
    message = message_of(ask(tools=TOOLS, **choice), write=write)
    (block,) = message["content"]
    assert (block["type"], message["stop_reason"]) == ("tool_use", "tool_use")
    assert block["id"].startswith("toolu_01")
    assert block["name"] in {"first", "second", "third"}
    validate(block["input"], SCHEMA)


def test_several_prompts_use_several_tools():
    used = {message_of(ask(f"Row {row}", tools=TOOLS))["content"][0]["name"] for row in range(30)}
    assert used == {"first", "second", "third"}


def test_the_tool_that_is_asked_for_is_used():
    message = message_of(ask(tools=TOOLS, tool_choice={"type": "tool", "name": "second"}))
    assert message["content"][0]["name"] == "second"


@pytest.mark.parametrize(
    "params",
    [
        {"tools": TOOLS, "tool_choice": {"type": "none"}},
        {"tools": TOOLS, "messages": RESULT},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": []},
    ],
)
def test_a_text_comes_where_no_tool_is_to_be_used(params):
    message = message_of(ask(**params))
    assert (message["content"][0]["type"], message["stop_reason"]) == ("text", "end_turn")


def test_a_forced_tool_is_used_even_after_a_result():
    assert message_of(ask(tools=TOOLS, messages=RESULT, tool_choice={"type": "any"}))["stop_reason"] == "tool_use"


@pytest.mark.parametrize("write", [facts, echo])
def test_a_json_schema_gets_json_that_fits(write):
    message = message_of(ask(output_config=FORMAT), write=write)
    validate(json.loads(message["content"][0]["text"]), SCHEMA)
    assert message["stop_reason"] == "end_turn"


def test_a_schema_that_nothing_fits_gets_an_empty_object():
    nothing = {"allOf": [{"type": "string"}, {"type": "object"}]}
    tool = {"name": "x", "input_schema": nothing}
    assert message_of(ask(tools=[tool]))["content"][0]["input"] == {}
    config = {"format": {"type": "json_schema", "schema": nothing}}
    assert message_of(ask(output_config=config))["content"][0]["text"] == "{}"


@given(st.text(alphabet="ab. !?\n", min_size=1))
def test_a_cited_text_stands_where_the_citation_says(data):
    params = ask([{"type": "document", "source": text_source(data), "citations": {"enabled": True}}, TEXT])
    (block,) = message_of(params)["content"]
    for citation in block["citations"] or ():
        assert data[citation["start_char_index"] : citation["end_char_index"]] == citation["cited_text"]
        assert block["text"] == citation["cited_text"].strip()
    assert bool(block["citations"]) == bool(data.strip())


def test_the_sentence_is_cited_that_the_question_is_about():
    others = text_source("Nothing here.")
    text, citation = cite(others, text_source("It rains. Oslo has 3.5 cranes! Why?"), question="cranes of Oslo?")
    assert text == "Oslo has 3.5 cranes!"
    assert (citation["type"], citation["document_index"]) == ("char_location", 1)


def test_a_block_of_a_document_is_cited_whole():
    source = {"type": "content", "content": [TEXT, {"type": "text", "text": "Blue. Cranes. "}]}
    text, citation = cite(source, question="cranes")
    assert text == "Blue. Cranes."
    assert (citation["start_block_index"], citation["end_block_index"]) == (1, 2)
    assert citation["cited_text"] == "Blue. Cranes. "


def test_documents_are_not_cited_unless_asked_and_count_as_tokens_all_the_same():
    source = text_source("Long text. " * 100)
    params = ask([{"type": "document", "source": source}, TEXT])
    assert message_of(params)["content"][0]["citations"] is None
    assert message_of(params)["usage"]["input_tokens"] == input_tokens(params) > 250


def test_thoughts_come_first_are_signed_and_are_paid_for():
    plain = message_of(ask())
    message = message_of(ask(thinking={"type": "enabled", "budget_tokens": 1024}))
    thinking, text = message["content"]
    assert text == plain["content"][0]
    assert thinking["signature"]
    thought = message["usage"]["output_tokens_details"]["thinking_tokens"]
    assert thought == len(thinking["thinking"]) // 4
    assert message["usage"]["output_tokens"] >= plain["usage"]["output_tokens"] + thought


@pytest.mark.parametrize(("words", "kinds"), [(3, ["text"]), (100, ["thinking", "text"])])
def test_adaptive_thinking_thinks_about_long_prompts_only(words, kinds):
    message = message_of(ask("word " * words, thinking={"type": "adaptive"}))
    assert [block["type"] for block in message["content"]] == kinds


def test_thoughts_that_are_omitted_are_signed_and_paid_for():
    message = message_of(ask(thinking={"type": "enabled", "budget_tokens": 1024, "display": "omitted"}))
    assert message["content"][0]["thinking"] == ""
    assert message["content"][0]["signature"]
    assert message["usage"]["output_tokens_details"]["thinking_tokens"] > 10


@pytest.mark.parametrize("asked", [{"output_config": FORMAT}, {"tools": TOOLS}, {"thinking": {"type": "enabled"}}, {}])
@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_every_kind_of_answer_is_cut_at_max_tokens(asked, most):
    message = message_of(ask(max_tokens=most, **asked))
    if most < 5 or asked:
        assert message["stop_reason"] == "max_tokens"
        assert message["usage"]["output_tokens"] == most
    assert sum(len(block.get("text", block.get("thinking", ""))) for block in message["content"]) <= most * 4


def test_a_stop_sequence_ends_the_answer_and_what_would_follow():
    blocks = [{"type": "text", "text": "one STOP two"}, {"type": "text", "text": "three"}]
    message = message_of(ask(stop_sequences=["STOP"]), write=lambda _params: blocks)
    assert [block["text"] for block in message["content"]] == ["one "]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "STOP")


@pytest.mark.parametrize("asked", [{}, {"output_config": FORMAT}, {"tools": TOOLS}])
def test_a_refusal_has_no_content_and_says_why(asked):
    message = message_of(ask(**asked), alter=refused)
    assert (message["content"], message["stop_reason"]) == ([], "refusal")
    assert message["stop_details"]["type"] == "refusal"
    assert message["stop_details"]["explanation"]


@pytest.mark.parametrize("asked", [{}, {"output_config": FORMAT}, {"tools": TOOLS}])
def test_a_truncated_answer_is_shorter_and_cheaper(asked):
    whole, half = message_of(ask(**asked)), message_of(ask(**asked), alter=truncated)
    assert half["stop_reason"] == "max_tokens"
    assert half["usage"]["output_tokens"] == whole["usage"]["output_tokens"] // 2
    assert len(json.dumps(half["content"])) < len(json.dumps(whole["content"]))


def test_truncated_json_is_no_json():
    text = message_of(ask(output_config=FORMAT), alter=truncated)["content"][0]["text"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_a_function_may_say_everything_that_the_api_can():
    said = {
        "content": [
            {"type": "redacted_thinking", "data": "x"},
            {"type": "tool_use", "name": "first", "input": {"a": (1, 2)}},
        ],
        "stop_reason": "pause_turn",
        "stop_details": {"category": "cyber"},
    }
    message = message_of(ask(), write=lambda _params: said)
    assert message["content"][0] == {"type": "redacted_thinking", "data": "x"}
    assert message["content"][1]["input"] == {"a": [1, 2]}
    assert message["stop_reason"] == "pause_turn"
    assert message["stop_details"] == {"type": "refusal", "category": "cyber", "explanation": None}


def test_a_functions_text_is_taken_as_it_is_whatever_the_request_asks_for():
    message = message_of(ask(tools=TOOLS, output_config=FORMAT), write=lambda _params: "plain")
    assert message["content"][0]["text"] == "plain"


@pytest.mark.parametrize("returned", BAD_ANSWERS, ids=repr)
def test_what_is_no_answer_is_named(returned):
    with pytest.raises(AnswerError, match=r"^The answer function returned .*It may return") as error:
        answer(ask(), write=lambda _params: returned)
    assert isinstance(error.value, TypeError)
    assert type(returned).__name__ in str(error.value)


def test_a_function_that_fails_fails_its_rows_only():
    def write(params):
        return {"good": "fine", "none": None}[params["system"]]

    requests = [{"custom_id": name, "params": ask(system=name)} for name in ("good", "none", "unknown")]
    with Sandbox(answer=write) as sandbox, anthropic.Anthropic(api_key="x", base_url=sandbox.url) as client:
        batch = client.messages.batches.create(requests=requests)
        client.messages.batches.retrieve(batch.id)
        lines = {line.custom_id: line.result for line in client.messages.batches.results(batch.id)}
        with pytest.raises(anthropic.InternalServerError, match="returned None"):
            client.with_options(max_retries=0).messages.create(**requests[1]["params"])
    assert lines["good"].message.content[0].text == "fine"
    assert lines["none"].error.error.type == lines["unknown"].error.error.type == "api_error"
    said = lines["unknown"].error.error.message
    assert re.fullmatch(r"The answer function raised KeyError: 'unknown' \(test_sandbox_answers.py, line \d+\)", said)


def test_an_answer_function_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "my_answers.py").write_text("def shout(params): return 'HO'\nNUMBER = 3\n")
    (tmp_path / "my_broken.py").write_text("import not_there\n")
    (tmp_path / "my_raising.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert (answer_function("facts"), answer_function("echo")) == (facts, echo)
    assert answer_function("my_answers:shout")({}) == "HO"
    for name, missing in {
        "shout": "module:function",
        "my_answers:": "module:function",
        "my_answers:whisper": "my_answers has no 'whisper'",
        "my_answers:NUMBER": "'NUMBER' of my_answers is no function but 3",
        "my_brokn:shout": "there is no module 'my_brokn'",
        "my_broken:shout": "there is no module 'not_there'",
        "my_raising:shout": "my_raising raised ZeroDivisionError",
    }.items():
        with pytest.raises(ValueError, match=missing):
            answer_function(name)


@pytest.mark.parametrize(("name", "said"), [("echo", "One. Two."), ("facts", "One.")])
def test_a_sandbox_takes_its_answers_by_name(name, said):
    with Sandbox(answer=name) as sandbox, anthropic.Anthropic(api_key="any", base_url=sandbox.url) as client:
        turn = {"role": "user", "content": "One. Two."}
        message = client.messages.create(model="claude-haiku-4-5", max_tokens=16, messages=[turn])
    assert message.content[0].text == said


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"answer": "nobody"}, "No answer function 'nobody'"),
        ({"max_queued_requests": 0}, "room for one request"),
        ({"batch_seconds": float("nan")}, "no negative time"),
        ({"clock_speed": -1}, "A clock runs at 0"),
        ({"error_rates": {"api_eror": 0.1}}, "Did you mean 'api_error'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_listens(option, words):
    with pytest.raises(ValueError, match=words):
        Sandbox(**option)


def test_a_fault_that_is_never_met_is_refused():
    with pytest.raises(ValueError, match="once at least"):
        Sandbox().fail_next("create", 503, times=0)
