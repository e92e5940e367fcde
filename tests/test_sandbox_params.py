"""Which parameters the sandbox accepts, beside the request types of the official SDK."""

import json
from contextlib import suppress
from copy import deepcopy

import pytest
from anthropic.types import message_create_params
from anthropic.types.beta import message_create_params as beta_params
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter
from sandbox_params import BEFORE, CALL, EPHEMERAL, NOW, PLAIN, TEXT, TOOL, assistant, refusal, user

from claude_pipeline.sandbox.errors import ApiError
from claude_pipeline.sandbox.params import check_in_batch, check_message, check_prompt

SCHEMA = TypeAdapter(message_create_params.MessageCreateParamsNonStreaming).json_schema()
BETA_SCHEMA = TypeAdapter(beta_params.MessageCreateParamsNonStreaming).json_schema()
FREE = frozenset({"schema", "input_schema", "input", "input_examples"})

CITATIONS = [
    {"type": "char_location", "document_title": None, "start_char_index": 0, "end_char_index": 5},
    {"type": "page_location", "document_title": "T", "start_page_number": 1, "end_page_number": 2},
    {"type": "content_block_location", "document_title": "T", "start_block_index": 0, "end_block_index": 1},
]
SOURCES = [
    {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
    {"type": "text", "media_type": "text/plain", "data": "Plain."},
    {"type": "url", "url": "https://example.com/a.pdf"},
    {"type": "file", "file_id": "file_1"},
    {"type": "content", "content": "One."},
    {"type": "content", "content": [TEXT]},
]
IMAGES = [
    {"type": "base64", "media_type": "image/png", "data": "iVBORw0="},
    {"type": "url", "url": "https://example.com/a.png"},
    {"type": "file", "file_id": "file_2"},
]
FULL = {
    **PLAIN,
    "cache_control": {**EPHEMERAL, "ttl": "5m"},
    "container": {"id": "container_1", "skills": [{"skill_id": "xlsx", "type": "custom", "version": "2"}]},
    "diagnostics": {"previous_message_id": None},
    "inference_geo": "eu",
    "metadata": {"user_id": "u"},
    "output_config": {"effort": "xhigh", "format": {"type": "json_schema", "schema": {"any": ["thing"]}}},
    "service_tier": "standard_only",
    "stop_sequences": ["END"],
    "stream": False,
    "system": [{**TEXT, "citations": [{**CITATIONS[0], "cited_text": "Wor", "document_index": 0}]}],
    "thinking": {"type": "adaptive", "display": "omitted"},
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": False},
    "tools": [{**TOOL, "type": "custom", "strict": True, "allowed_callers": ["direct"], "input_examples": [{"a": 1}]}],
    "user_profile_id": "p",
    "workspace_id": "w",
}


# What the official types say


def request_types_only(schema):
    """Drop the types of answers: the SDK lets them stand for requests, with any key beside their own."""
    for definition in schema["$defs"].values():
        content = definition.get("properties", {}).get("content", {})
        for option in content.get("anyOf", ()):
            if "anyOf" in option.get("items", {}):
                option["items"]["anyOf"] = [each for each in option["items"]["anyOf"] if "Param" in each["$ref"]]
    return schema


OFFICIAL = Draft202012Validator(request_types_only(deepcopy(SCHEMA)))

words = st.text("abc .", min_size=1).filter(str.strip)
citations = st.sampled_from(CITATIONS).map(lambda place: {**place, "cited_text": "c", "document_index": 0})
texts = st.fixed_dictionaries(
    {"type": st.just("text"), "text": words}, optional={"citations": st.lists(citations, max_size=2)}
)
images = st.sampled_from(IMAGES).map(lambda source: {"type": "image", "source": source})
documents = st.fixed_dictionaries(
    {"type": st.just("document"), "source": st.sampled_from(SOURCES)},
    optional={"title": words, "context": words, "citations": st.just({"enabled": True})},
)
search_results = st.fixed_dictionaries(
    {"type": st.just("search_result"), "source": words, "title": words, "content": st.lists(texts, max_size=2)}
)
thoughts = st.sampled_from(
    [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
    ]
)
asked = st.lists(texts | images | documents | search_results, min_size=1, max_size=3)
answered = st.tuples(st.lists(thoughts, max_size=1), st.lists(texts, min_size=1, max_size=2)).map(
    lambda parts: [*parts[0], *parts[1]]
)


@st.composite
def conversations(draw):
    turns = [{"role": "user", "content": draw(words | asked)}]
    for number in range(draw(st.integers(0, 2))):
        ids = [f"toolu_{number}_{each}" for each in range(draw(st.integers(0, 2)))]
        calls = [{**CALL, "id": tool_use_id} for tool_use_id in ids]
        results = [
            {"type": "tool_result", "tool_use_id": tool_use_id, "content": draw(words | asked)} for tool_use_id in ids
        ]
        turns += [assistant(*draw(answered), *calls), user(*results, *draw(asked))]
    return turns


tools = st.fixed_dictionaries(
    {"name": st.just("weather"), "input_schema": st.just(TOOL["input_schema"])},
    optional={
        "type": st.just("custom"),
        "description": words,
        "strict": st.booleans(),
        "defer_loading": st.booleans(),
        "cache_control": st.sampled_from([EPHEMERAL, {**EPHEMERAL, "ttl": "1h"}]),
        "allowed_callers": st.just(["direct"]),
    },
)
AS_ABOVE = {"container", "diagnostics", "inference_geo", "metadata", "service_tier", "stop_sequences", "stream"}
OPTIONAL = {
    **{key: st.just(FULL[key]) for key in sorted(AS_ABOVE)},
    "user_profile_id": words,
    "system": words | st.lists(texts, max_size=2),
    "cache_control": st.just(EPHEMERAL),
    "output_config": st.sampled_from([FULL["output_config"], {"effort": "low"}, {}]),
    "thinking": st.sampled_from(
        [{"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}, {"type": "adaptive"}]
    ),
    "tools": tools.map(lambda tool: [tool, {"type": "web_search_20250305", "name": "web_search"}]),
}
valid_params = st.fixed_dictionaries(
    {"model": st.just("claude-opus-5-5"), "max_tokens": st.integers(1025, 9999), "messages": conversations()},
    optional=OPTIONAL,
)


def places(value, path=()):
    """Walk to every value but those inside what the user is free to fill in."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        if key not in FREE:
            yield from places(inner, (*path, key))


def at(value, path):
    for step in path:
        value = value[step]
    return value


def spoiled(params, path, wrong):
    """Return a copy in which the value at the path is another, or (if the other is ...) gone."""
    copy = json.loads(json.dumps(params))  # what was the same object in two places is no longer
    holder = at(copy, path[:-1])
    if wrong is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = wrong
    return copy


def is_culprit(named, path):
    """Tell whether a name is the path, or lies in it or in what the path's `type` tells the shape of."""
    dotted = ".".join(map(str, path))
    holder = ".".join(map(str, path[:-1]))
    return f"{named}.".startswith(f"{holder if path[-1] == 'type' else dotted}.")


THOROUGHLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@THOROUGHLY
@given(params=valid_params)
def test_what_the_official_types_allow_is_accepted_and_handed_back(params):
    assert OFFICIAL.is_valid(params)
    assert check_in_batch(params, version=NOW) is params
    assert check_message(params, version=BEFORE) is params


@THOROUGHLY
@given(params=valid_params, data=st.data())
def test_what_the_official_types_refuse_is_refused_by_name(params, data):
    path = data.draw(st.sampled_from(list(places(params))))
    wrong = data.draw(st.sampled_from([..., 3, 1.5, True, "bogus", {}, [], [3], {"type": "bogus"}]))
    assume(wrong is not ... or isinstance(path[-1], str))
    params = spoiled(params, path, wrong)
    assume(not OFFICIAL.is_valid(params))
    named = refusal(params).partition(": ")[0]
    assert is_culprit(named, path), (named, path)


@THOROUGHLY
@given(params=valid_params, data=st.data())
def test_an_unknown_key_is_refused_wherever_it_stands(params, data):
    objects = [path for path in [(), *places(params)] if isinstance(at(params, path), dict) and not FREE & {*path}]
    path = data.draw(st.sampled_from([path for path in objects if path != ("tools", 1)]))
    unheard_of = ".".join(map(str, (*path, "unheard_of")))
    params = spoiled(params, (*path, "unheard_of"), 1)
    assert refusal(params) == f"{unheard_of}: Extra inputs are not permitted"


@pytest.mark.parametrize("version", [NOW, BEFORE])
def test_every_parameter_may_be_given_at_once(version):
    assert OFFICIAL.is_valid(FULL)
    assert check_message({**FULL, "speed": "standard"}, version=version)
    assert check_in_batch(FULL, version=version)


@pytest.mark.parametrize("key", [*sorted(FULL.keys() - PLAIN.keys() - {"tools"}), "speed", "temperature", "store"])
def test_null_stands_for_an_optional_parameter_that_is_absent(key):
    assert check_in_batch({**FULL, key: None}, version=NOW)


@pytest.mark.parametrize("schema", [SCHEMA, BETA_SCHEMA], ids=["stable", "beta"])
def test_every_type_of_block_that_the_sdk_knows_is_known(schema):
    definition = schema["$defs"].get("UserMessageParam") or schema["$defs"]["BetaUserMessageParam"]
    blocks = definition["properties"]["content"]["anyOf"][1]["items"]["anyOf"]
    known = {constant for block in blocks for constant in type_names(schema, block)}
    assert len(known) >= 16
    for name in known:
        assert "Input tag" not in refusal({**PLAIN, "messages": [user({"type": name, "cache_control": 1})]})


@pytest.mark.parametrize("schema", [SCHEMA, BETA_SCHEMA], ids=["stable", "beta"])
def test_every_type_of_tool_that_the_sdk_knows_is_accepted_with_any_key(schema):
    tools = schema["properties"]["tools"]["items"]["anyOf"][1:]
    assert len(tools) >= 20
    for tool in tools:
        name = schema["$defs"][tool["$ref"].split("/")[-1]]["properties"].get("name", {}).get("const")
        for type_name in type_names(schema, tool):
            assert check_in_batch({**PLAIN, "tools": [{"type": type_name, "name": name, "new_key": 1}]}, version=NOW)


def type_names(schema, reference):
    described = schema["$defs"][reference["$ref"].split("/")[-1]]["properties"]["type"]
    return described.get("enum") or [described["const"]]


# What no client should send


def nested(opening, closing, *, depth=400):
    return json.loads(opening * depth + "1" + closing * depth)


DEEP = [nested("[", "]"), nested('{"type":', "}"), nested('{"content":[', "]}")]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["user", "text", "5m"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["type", "role"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@THOROUGHLY
@given(data=st.data(), wild=JSON | st.sampled_from(DEEP))
@pytest.mark.parametrize("check", [check_in_batch, check_message, check_prompt])
def test_whatever_stands_in_the_place_of_a_value_is_accepted_or_refused(check, data, wild):
    path = data.draw(st.sampled_from([*places(FULL), *((key,) for key in ("thread", "mcp_servers", "temperature"))]))
    for params in (wild, spoiled(FULL, path, wild), spoiled({**FULL}, ("messages",), [user(wild), wild])):
        with suppress(ApiError):
            assert check(params, version=NOW) is params


@pytest.mark.parametrize("key", ["messages", "system", "tools", "mcp_servers", "output_config", "metadata"])
def test_nesting_deeper_than_the_stack_is_no_crash(key):
    deep = {}
    for _ in range(50_000):
        deep = {"type": "text", "content": [deep]}
    with suppress(ApiError):
        assert check_message({**PLAIN, key: [deep]}, version=NOW)
    with suppress(ApiError):
        assert check_message({**PLAIN, key: deep}, version=NOW)
    with pytest.raises(ApiError):
        check_message(deep, version=NOW)


@pytest.mark.parametrize(
    "key", ["", "a.b", "a` - at `$.model", "x` - at `$.messages[0].role", "\n", "Invalid value 'x'"]
)
def test_a_key_that_looks_like_a_message_is_refused_like_any_other(key):
    assert "Extra inputs are not permitted" in refusal({**PLAIN, key: 1})
    assert refusal({**PLAIN, "metadata": {key: 1}}) == f"metadata.{key}: Extra inputs are not permitted"
