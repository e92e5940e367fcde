"""Values that fit a JSON schema, judged by the `jsonschema` package."""

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from claude_pipeline.sandbox.answers.fitting import fit
from claude_pipeline.sandbox.answers.patterns import draw_match

PROMPT = "The coffee was cold, the waiter was kind. Would we come again? Yes!"
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "uri", "uuid", "ipv4", "ipv6")
CHECKED = FormatChecker(["date", "email", "ipv4", "ipv6", "uuid"])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = st.sampled_from(
    [
        *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "properties", "required", "items"),
        *("additionalProperties", "prefixItems", "minItems", "maxItems", "uniqueItems", "minProperties"),
        *("minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "multipleOf"),
    ]
)
VALUES = JUNK | st.sampled_from(["object", "array", "string", "integer", "number", "#", "#/$defs/a", "a+", "date"])
JUNK_SCHEMAS = st.recursive(
    st.dictionaries(KEYWORDS, VALUES, max_size=4),
    lambda inner: st.dictionaries(KEYWORDS, inner | st.lists(inner, max_size=3) | VALUES, max_size=5),
    max_leaves=12,
)


def check(schema, prompt=PROMPT):
    value = fit(schema, prompt=prompt)
    Draft202012Validator(schema, format_checker=CHECKED).validate(value)
    return value


def bounds(draw, low, high):
    least, most = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    return least, most


@st.composite
def numbers(draw):
    least, most = bounds(draw, -1_000, 1_000)
    kind = draw(st.sampled_from(["integer", "number"]))
    step = draw(st.sampled_from([1, 2, 7, 0.5, 0.25, 10]))
    return draw(
        st.sampled_from(
            [
                {"type": kind},
                {"type": kind, "minimum": least},
                {"type": kind, "maximum": most},
                {"type": kind, "minimum": least, "maximum": most},
                {"type": kind, "exclusiveMinimum": least, "exclusiveMaximum": most + 2},
                {"type": kind, "multipleOf": step},
                {"type": kind, "minimum": least, "maximum": least + 20, "multipleOf": step},
                {"type": "number", "minimum": least / 7, "maximum": least / 7 + 0.001},
                {"minimum": least},
            ]
        )
    )


@st.composite
def strings(draw):
    least, most = bounds(draw, 0, 60)
    return draw(
        st.sampled_from(
            [
                {"type": "string"},
                {"type": "string", "minLength": least},
                {"type": "string", "maxLength": most},
                {"type": "string", "minLength": least, "maxLength": most},
                {"type": "string", "format": draw(st.sampled_from(FORMATS))},
                {"type": "string", "pattern": "^[A-Z]{2,4}-\\d{3}$"},
                {"type": "string", "pattern": "^(yes|no|[^a-z]+)$", "minLength": 2},
            ]
        )
    )


LEAVES = (
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True, {"type": ["integer", "null"]}])
    | st.lists(st.text(max_size=5) | st.integers() | st.none(), min_size=1, max_size=4).map(lambda v: {"enum": v})
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2).map(lambda v: {"const": v})
    | numbers()
    | strings()
)


@st.composite
def objects(draw, inner):
    properties = draw(st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=4))
    required = draw(st.lists(st.sampled_from([*properties, "unnamed"]), unique=True))
    closed = "unnamed" not in required and draw(st.booleans())
    extra = {"additionalProperties": False} if closed else {"additionalProperties": draw(inner)}
    return {"type": "object", "properties": properties, "required": required, **extra}


@st.composite
def arrays(draw, inner):
    first = draw(st.lists(inner, max_size=3))
    least, most = bounds(draw, 0, 5)
    schema = {"type": "array", "items": draw(inner), "minItems": least, "maxItems": most}
    return {**schema, "prefixItems": first} if first else schema


def combined(inner):
    return (
        objects(inner)
        | arrays(inner)
        | st.lists(inner, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas})
        | inner.map(lambda schema: {"allOf": [schema, {"description": "anything"}]})
        | st.lists(objects(inner), min_size=2, max_size=2).map(
            lambda schemas: {
                "oneOf": [
                    {"type": "object", "properties": {"kind": {"const": place}, "it": schema}, "required": ["kind"]}
                    for place, schema in enumerate(schemas)
                ]
            }
        )
    )


@given(st.recursive(LEAVES, combined, max_leaves=10), st.text())
def test_a_value_fits_whatever_schema_can_be_met(schema, prompt):
    check(schema, prompt)


@given(st.recursive(LEAVES, combined, max_leaves=5))
def test_a_value_fits_a_schema_behind_a_reference(schema):
    check(
        {"$defs": {"a/b": schema, "list": {"type": "array", "items": {"$ref": "#/$defs/a~1b"}}}, "$ref": "#/$defs/list"}
    )


@given(JUNK_SCHEMAS | JUNK)
def test_no_schema_breaks_the_fitting_and_every_value_is_the_same_again(schema):
    assert fit(schema, prompt=PROMPT) == fit(schema, prompt=PROMPT)


@given(numbers(), numbers())
def test_what_must_fit_two_schemas_fits_both_or_is_not_found(one, other):
    schema = {"allOf": [one, other]}
    value = fit(schema, prompt=PROMPT)
    assert value is None or Draft202012Validator(schema).is_valid(value)


NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    "required": ["value", "kids"],
    "additionalProperties": False,
}
LINK = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]}},
    "required": ["next"],
}


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"$defs": {"link": LINK}, "$ref": "#/$defs/link"},
        {"type": "object", "properties": {"self": {"$ref": "#"}}},
        {"type": ["array", "string"], "items": {"$ref": "#"}, "minItems": 1},
    ],
)
def test_a_recursive_schema_comes_to_an_end(schema):
    check(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"allOf": [{"enum": [1]}, {"enum": [True]}]},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "string", "minLength": 10**12},
        {"type": "array", "minItems": 10**12},
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "uniqueItems": True},
        {"type": "object", "minProperties": 10**12},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"anyOf": [False, {"type": "nonsense"}]},
        {"enum": ["a"], "type": "integer"},
    ],
)
def test_where_nothing_fits_nothing_is_found_and_that_soon(schema):
    assert fit(schema, prompt=PROMPT) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"multipleOf": 1e308},
        {"type": "integer", "multipleOf": 1e308},
        {"type": "number", "minimum": -1e308, "maximum": 1e308},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 5e-324 * 3},
        {"type": "number", "multipleOf": 0.01, "minimum": 0.05},
        {"type": "number", "minimum": 0.1, "maximum": 0.1},
    ],
)
def test_numbers_at_the_ends_of_what_floats_can_say_fit(schema):
    check(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "enum": ["a", True, 2.5, 3.0]},
        {"type": "boolean", "enum": [1, True]},
        {"type": "object", "minProperties": 3, "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2, "maxProperties": 2},
        {"anyOf": [{"$ref": "#/anyOf/1"}, {"type": "integer"}]},
    ],
)
def test_what_is_asked_for_less_often_fits_too(schema):
    assert check(schema) is not None


def test_a_reference_to_nothing_asks_for_nothing():
    assert fit({"$ref": "#/$defs/none/0"}, prompt=PROMPT)


def test_closed_schemas_that_must_both_hold_share_only_what_both_know():
    one = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    other = {"type": "object", "properties": {"b": {}, "a": {"minimum": 7}}}
    assert [*check({"allOf": [one, other]})] == ["a"]


def test_several_prompts_get_several_values_and_a_prompt_always_the_same():
    schema = {"type": "object", "properties": {"label": {"enum": ["good", "bad", "mixed"]}}, "required": ["label"]}
    labels = [check(schema, f"Review {number}")["label"] for number in range(50)]
    assert set(labels) == {"good", "bad", "mixed"}
    assert labels == [check(schema, f"Review {number}")["label"] for number in range(50)]


def test_strings_are_words_of_the_prompt():
    words = re.findall(r"\w+", check({"type": "string"}))
    assert words
    assert set(words) <= set(re.findall(r"\w+", PROMPT))


@given(st.text(alphabet="ab|()[]{}?*+.^$\\dws-,0123<>P:", max_size=12))
def test_no_pattern_breaks_the_reader(pattern):
    assert draw_match(pattern, random=Random(1)) == draw_match(pattern, random=Random(1))


@pytest.mark.parametrize(
    "pattern",
    [r"^\+?\d{1,3}[-. ]?\w+@(foo|bar)\.com$", r"[^a-z]{2}", r"^(?P<x>a|b)+c{2,}$", r"^\x41\u00e9[\d\-_]$"],
)
def test_an_everyday_pattern_is_matched(pattern):
    assert re.search(pattern, check({"type": "string", "pattern": pattern}))


@pytest.mark.parametrize("pattern", [r"\p{L}", "(?=x)x", "a**", "[", "[]", "(", "x{99999}", "[b-a]", "\\"])
def test_a_pattern_beyond_the_reader_gets_a_phrase(pattern):
    assert isinstance(fit({"type": "string", "pattern": pattern}, prompt=PROMPT), str)
