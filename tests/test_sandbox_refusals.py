"""What the sandbox refuses in parameters though no type forbids it: turns, tools, prefixes to cache."""

import pytest
from sandbox_params import BEFORE, CALL, EPHEMERAL, NOW, PLAIN, RESULT, TEXT, TOOL, assistant, refusal, user

from claude_pipeline.sandbox.errors import NotFoundError
from claude_pipeline.sandbox.params import check_in_batch, check_message, check_prompt


def with_tools(*tools, **params):
    return {"tools": list(tools), **params}


def talk(*turns):
    return {"messages": [user(TEXT), *turns]}


MARKED = {**TEXT, "cache_control": EPHEMERAL}
MARKED_LONG = {**TEXT, "cache_control": {**EPHEMERAL, "ttl": "1h"}}
BLANK = "text content blocks must contain non-whitespace text"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": 1.0}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 10**30}, f"max_tokens: {10**30} > 300000, the most that a model allows"),
        ({"stream": True}, "stream: Streaming is not supported in a batch"),
        ({"speed": "standard"}, "speed: Not supported in a batch"),
        ({"store": False}, "store: Not supported in a batch"),
        ({"top_k": 1, "temperature": 1}, "temperature: Not supported since anthropic-version 2026-10-21"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "me"}]}, "messages.0.role: Input should be 'user', 'assistant' or 'system'"),
        ({"messages": [assistant(TEXT)]}, 'messages: first message must use the "user" role'),
        (
            {"messages": [user()]},
            "messages.0: all messages must have non-empty content except for the optional final assistant message",
        ),
        (talk({"role": "system"}), "messages.1.content: Field required"),
        ({"messages": [{"role": "user", "content": "\n"}]}, f"messages.0.content: {BLANK}"),
        (talk(user(TEXT, {**TEXT, "text": " "})), f"messages.1.content.1.text: {BLANK}"),
        ({"system": " "}, f"system: {BLANK}"),
        ({"system": [{**TEXT, "text": ""}]}, "system.0.text: text content blocks must be non-empty"),
        ({"stop_sequences": [" "]}, "stop_sequences: each stop sequence must contain non-whitespace"),
        (talk(user(CALL)), "messages.1.content.0: `tool_use` blocks can only be in `assistant` messages"),
        (talk(assistant(RESULT)), "messages.1.content.0: `tool_result` blocks can only be in `user` messages"),
        (talk(assistant(CALL, CALL), user(RESULT)), "messages.1.content.1.id: `tool_use` ids must be unique"),
        (
            talk(assistant(CALL), user({**RESULT, "content": [{**TEXT, "text": ""}]})),
            "messages.2.content.0.content.0.text: text content blocks must be non-empty",
        ),
        (with_tools(TOOL, TOOL), "tools: Tool names must be unique."),
        (
            with_tools({**TOOL, "name": "a b"}),
            "tools.0.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
        ),
        (
            with_tools({**TOOL, "name": "a\n"}),
            "tools.0.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
        ),
        (
            with_tools({**TOOL, "input_schema": {"type": "array"}}),
            "tools.0.input_schema.type: Input should be 'object'",
        ),
        (with_tools({**TOOL, "input_schema": {}}), "tools.0.input_schema.type: Field required"),
        (with_tools({"type": "memory_20250818", "name": "m"}), "tools.0.name: Input should be 'memory'"),
        ({"tool_choice": {"type": "auto"}}, "tool_choice: may only be specified while providing `tools`"),
        (
            with_tools(TOOL, tool_choice={"type": "tool", "name": "other"}),
            "tool_choice.name: Tool 'other' not found in provided tools",
        ),
        (
            with_tools(TOOL, tool_choice={"type": "some"}),
            "tool_choice: Input tag 'some' found using 'type' does not match any of the expected tags: 'auto', 'any', 'tool', 'none'",  # noqa: E501 - as it is sent
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1023}},
            "thinking.budget_tokens: Input should be greater than or equal to 1024",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1024},
            "thinking.budget_tokens: `max_tokens` must be greater than `thinking.budget_tokens`",
        ),
        (
            with_tools(TOOL, tool_choice={"type": "any"}, thinking={"type": "enabled", "budget_tokens": 1024})
            | {"max_tokens": 2000},
            "tool_choice: Thinking may not be enabled when tool_choice forces tool use.",
        ),
        ({"system": [{"text": "Words."}]}, "system.0.type: Field required"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema: Field required"),
        (
            {"system": [{**MARKED, "cache_control": {**EPHEMERAL, "ttl": "2h"}}]},
            "system.0.cache_control.ttl: Input should be '1h' or '5m'",
        ),
        (
            {"system": [MARKED] * 3, "cache_control": EPHEMERAL} | talk(user(MARKED)),
            "cache_control: A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
    ],
)
def test_what_the_types_cannot_say_is_checked_too(wrong, message):
    assert refusal({**PLAIN, **wrong}) == message


@pytest.mark.parametrize("params", [None, 1, "x", [], [["model", "x"]]])
def test_params_that_are_no_object_are_refused(params):
    assert refusal(params) == "params: Input should be an object"


def test_an_unknown_model_is_not_found():
    with pytest.raises(NotFoundError, match="model: gpt-4"):
        check_message({**PLAIN, "model": "gpt-4"}, version=NOW)


def test_outside_a_batch_more_is_allowed():
    params = {**PLAIN, "stream": True, "speed": "fast", "max_tokens": 0}
    assert check_message(params, version=NOW) is params


def test_the_older_version_takes_sampling_parameters_within_their_range():
    assert check_in_batch({**PLAIN, "temperature": 1, "top_p": 0.5, "top_k": 5}, version=BEFORE)
    message = refusal({**PLAIN, "temperature": 1.5}, version=BEFORE)
    assert message == "temperature: Input should be less than or equal to 1"


def test_counting_tokens_takes_a_prompt_and_nothing_else():
    prompt = {"model": PLAIN["model"], "messages": PLAIN["messages"], "tools": [TOOL], "system": "Be brief."}
    assert check_prompt(prompt, version=NOW) is prompt
    assert refusal({**PLAIN}, check=check_prompt) == "max_tokens: Extra inputs are not permitted"


@pytest.mark.parametrize(
    "turns",
    [
        [assistant(CALL)],
        [assistant(CALL), user(TEXT)],
        [assistant(CALL), user(TEXT, RESULT)],
        [assistant(TEXT), assistant(CALL), assistant(TEXT), user(TEXT)],
        [assistant(CALL, {**CALL, "id": "toolu_2"}), user({**RESULT, "tool_use_id": "toolu_2"})],
    ],
)
def test_a_tool_call_is_answered_at_once(turns):
    message = refusal({**PLAIN, **talk(*turns)})
    assert "were found without `tool_result` blocks immediately after: toolu_1. Each" in message


@pytest.mark.parametrize(
    "turns",
    [
        [user(RESULT)],
        [assistant(TEXT), user(RESULT)],
        [assistant(CALL), user(RESULT, {**RESULT, "tool_use_id": "other"})],
        [assistant(CALL), user(RESULT), assistant(TEXT), user(RESULT)],
    ],
)
def test_a_tool_result_follows_its_call(turns):
    assert "unexpected `tool_use_id` found in `tool_result` blocks" in refusal({**PLAIN, **talk(*turns)})


def test_a_system_turn_may_change_the_effort_alone():
    turn = {"role": "system", "output_config": {"effort": "low"}}
    assert check_in_batch({**PLAIN, **talk(turn)}, version=NOW)


def test_turns_of_the_same_speaker_are_read_as_one():
    turns = [assistant(TEXT), assistant(CALL), {"role": "system", "content": "Calm."}, user(RESULT), user(TEXT)]
    assert check_in_batch({**PLAIN, **talk(*turns)}, version=NOW)


PREFILL = talk({"role": "assistant", "content": "The answer is"})


@pytest.mark.parametrize(
    "model",
    ["claude-haiku-4-5", "claude-opus-4-1-20250805", "claude-sonnet-4-20250514", "claude-3-5-haiku-20241022"],
)
def test_an_older_model_goes_on_with_the_assistants_turn(model):
    assert check_in_batch({**PLAIN, **PREFILL, "model": model}, version=NOW)
    assert check_in_batch({**PLAIN, **talk(assistant()), "model": model}, version=NOW)
    message = refusal({**PLAIN, **talk(assistant({**TEXT, "text": "It is "})), "model": model})
    assert message == "messages: final assistant content cannot end with trailing whitespace"


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-5", "claude-haiku-5-5-20261001", "claude-next"])
def test_a_newer_model_does_not_go_on_with_the_assistants_turn(model):
    message = "This model does not support assistant message prefill. The conversation must end with a user message."
    assert refusal({**PLAIN, **PREFILL, "model": model}) == f"messages: {message}"


def test_every_model_goes_on_where_a_tool_of_the_api_paused():
    paused = assistant({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}})
    assert check_in_batch({**PLAIN, **talk(paused), "model": "claude-opus-5-5"}, version=NOW)


def test_breakpoints_are_counted_wherever_they_stand():
    inside = {"type": "document", "source": {"type": "content", "content": [MARKED]}}
    params = {**talk(assistant(CALL), user({**RESULT, "content": [MARKED]}, inside)), "system": [MARKED, MARKED]}
    assert check_in_batch({**PLAIN, **params}, version=NOW)
    message = refusal({**PLAIN, **params, "tools": [{**TOOL, "cache_control": EPHEMERAL}]})
    assert message.startswith("messages.2.content.1.source.content.0.cache_control: A maximum of 4 blocks")


def test_a_short_lived_breakpoint_does_not_come_before_a_long_lived_one():
    assert check_in_batch({**PLAIN, "system": [MARKED_LONG, MARKED]}, version=NOW)
    message = refusal({**PLAIN, "system": [MARKED], **talk(user(MARKED_LONG))})
    assert message.startswith("messages.1.content.0.cache_control.ttl: a ttl='1h' cache_control block must not come")
