"""Answers, typed by their schema: what fits comes back equal, what does not is reported and harms nothing."""

import json
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from claude_pipeline.schemas import read_schema
from claude_pipeline.typed import TypedColumns, arrow_fields

NULL = {"type": "null"}
DATES = st.dates(min_value=date(1, 1, 2), max_value=date(9999, 12, 30))
TIMES = st.times()
ZONES = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-14 * 60, 14 * 60))
MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=ZONES | st.just(UTC))  # noqa: DTZ001  it gets one
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(st.characters(exclude_characters='"\\', exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)
WORDS = st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)


def schema_of(properties, required=None):
    required = [*properties] if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def typed(properties, *answers, required=None):
    """Type the answers, given as JSON values or as texts."""
    texts = [answer if isinstance(answer, str) else json.dumps(answer) for answer in answers]
    return TypedColumns(read_schema(schema_of(properties, required))).decode(texts)


def one(part, value):
    """Return what a value comes back as, or the error."""
    columns, errors = typed({"x": part}, {"x": value})
    return errors[0] or columns[0].to_pylist()[0]


# Any schema, and any answer that fits it


@st.composite
def limited(draw, kind, least, most, values):
    """Draw a type with limits that leave something to choose."""
    low, high = sorted((draw(values), draw(values)))
    return {"type": kind, **draw(st.sampled_from([{}, {least: low}, {most: high}, {least: low, most: high}]))}


@st.composite
def objects(draw, parts, size=1):
    """Draw an object, some of whose properties may be left out."""
    properties = draw(st.dictionaries(NAMES, parts, min_size=size, max_size=4))
    optional = draw(st.sets(st.sampled_from([*properties])))
    return schema_of(properties, [name for name in properties if name not in optional])


SCALARS = st.one_of(
    st.sampled_from([{"type": "boolean"}, NULL, {"type": "string"}]),
    *(st.just({"type": "string", "format": name}) for name in ("date", "date-time", "time")),
    limited("integer", "minimum", "maximum", INTEGERS),
    limited("number", "minimum", "maximum", st.floats(-1e9, 1e9)),
    limited("string", "minLength", "maxLength", st.integers(0, 5)),
    st.builds(lambda words: {"enum": words}, WORDS),
    st.builds(lambda words: {"enum": [*words, None]}, WORDS),
    st.builds(lambda values: {"enum": values}, st.lists(INTEGERS, min_size=1, max_size=3)),
    st.builds(lambda values: {"enum": values}, st.lists(INTEGERS | FLOATS | st.booleans(), min_size=1, max_size=4)),
    st.builds(lambda word: {"const": word}, st.text(max_size=5) | st.booleans()),
)
NOT_NULLABLE = SCALARS.filter(lambda part: part != NULL)
PARTS = st.recursive(
    SCALARS,
    lambda parts: st.one_of(
        st.builds(
            lambda items, most: {"type": "array", "items": items, **most}, parts, st.sampled_from([{}, {"maxItems": 2}])
        ),
        objects(parts),
        st.builds(lambda part: {"anyOf": [part, NULL]}, NOT_NULLABLE | objects(parts)),
        st.builds(lambda one, other: {"anyOf": [one, other]}, parts, parts),
    ),
    max_leaves=6,
)
SCHEMAS = objects(SCALARS, size=3) | objects(PARTS)


def scalars(part):
    match part["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(part.get("minimum", -(2**63)), part.get("maximum", 2**63 - 1))
        case "number":
            bounds = {"min_value": part.get("minimum"), "max_value": part.get("maximum")}
            return st.floats(**bounds, allow_nan=False, allow_infinity=False) | (
                st.integers(-1000, 1000).filter(lambda value: fits(value, part))
                if not any(bounds.values())
                else st.nothing()
            )
        case "string":
            moments = {
                "date": DATES.map(date.isoformat),
                "date-time": MOMENTS.filter(lambda value: not value.utcoffset() % timedelta(minutes=1)).map(
                    datetime.isoformat
                ),
                "time": TIMES.map(time.isoformat),
            }
            texts = st.text(min_size=part.get("minLength", 0), max_size=part.get("maxLength", 8))
            return moments.get(part.get("format"), texts)


def answers_to(part):
    """Draw values that fit."""
    if "anyOf" in part:
        return st.one_of([answers_to(choice) for choice in part["anyOf"]])
    if "enum" in part or "const" in part:
        return st.sampled_from(part.get("enum", [part.get("const")]))
    if part["type"] == "array":
        return st.lists(answers_to(part["items"]), max_size=part.get("maxItems", 3))
    if part["type"] == "object":
        members = {name: answers_to(member) for name, member in part["properties"].items()}
        required = {name: members.pop(name) for name in part["required"]}
        return st.fixed_dictionaries(required, optional=members)
    return scalars(part)


CHECKER = FormatChecker(formats=())
MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?")
for name, kind, pattern in (
    ("date", date, r"\d{4}-\d\d-\d\d"),
    ("date-time", datetime, MOMENT),
    ("time", time, r"\d\d:\d\d:\d\d.*"),
):
    CHECKER.checks(name, raises=ValueError)(
        lambda text, kind=kind, pattern=pattern: (
            not isinstance(text, str) or bool(re.fullmatch(pattern, text) and kind.fromisoformat(text))
        )
    )


def fits(value, schema):
    return Draft202012Validator(schema, format_checker=CHECKER).is_valid(value)


READ = {
    pa.date32(): date.fromisoformat,
    pa.timestamp("us", tz="UTC"): datetime.fromisoformat,
    pa.time64("us"): time.fromisoformat,
}


def expected(value, part, kind: pa.DataType) -> Any:
    """Return what a value must come back as in a column of a type."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        part = next(choice for choice in part.get("anyOf", [part]) if choice != NULL)
        return {
            field.name: expected(value.get(field.name), part["properties"][field.name], field.type) for field in kind
        }
    if pa.types.is_list(kind):
        part = next(choice for choice in part.get("anyOf", [part]) if choice != NULL)
        return [expected(item, part["items"], kind.value_type) for item in value]
    return READ.get(kind, lambda value: value)(value)


def assert_same(came, value, kind):
    """Compare, and read JSON where a column of text stands for several types."""
    if pa.types.is_struct(kind) and value is not None:
        for field in kind:
            assert_same(came[field.name], value[field.name], field.type)
    elif pa.types.is_list(kind) and value is not None:
        assert len(came) == len(value)
        for one_came, one_value in zip(came, value, strict=True):
            assert_same(one_came, one_value, kind.value_type)
    elif came != value:
        assert pa.types.is_string(kind)
        assert json.loads(came) == value


@st.composite
def answered(draw):
    schema = draw(SCHEMAS)
    return schema, draw(st.lists(answers_to(schema), min_size=1, max_size=4))


@given(answered())
def test_an_answer_that_fits_comes_back_typed_and_equal(given_and_answers):
    schema, answers = given_and_answers
    columns, errors = TypedColumns(read_schema(schema)).decode([json.dumps(answer) for answer in answers])
    assert errors == [None] * len(answers)
    for field, column in zip(arrow_fields(read_schema(schema)), columns, strict=True):
        column.validate(full=True)
        assert column.type == field.type
        for answer, came in zip(answers, column.to_pylist(), strict=True):
            value = expected(answer.get(field.name), schema["properties"][field.name], field.type)
            assert_same(came, value, field.type)


# Any answer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | st.text(max_size=4),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES, values, max_size=3),
    max_leaves=5,
)


@st.composite
def spoiled(draw):
    """Draw a schema, an answer that fits, and one in which something was replaced, added or left out."""
    schema = draw(SCHEMAS)
    good, bad = draw(answers_to(schema)), draw(answers_to(schema))
    name = draw(st.sampled_from([*schema["properties"], "stranger"]))
    bad = {**bad, name: draw(JSON)} if draw(st.booleans()) else {key: bad[key] for key in bad if key != name}
    return schema, good, draw(st.sampled_from([bad, draw(JSON)]))


@given(spoiled())
def test_an_answer_is_reported_if_and_only_if_it_does_not_fit(case):
    schema, good, wild = case
    columns = TypedColumns(read_schema(schema))
    alone = [column.to_pylist()[0] for column in columns.decode([json.dumps(good)]).columns]
    came, errors = columns.decode([json.dumps(good), json.dumps(wild), None, json.dumps(good)])
    rows = [*zip(*(column.to_pylist() for column in came), strict=True)]
    assert rows[0] == rows[3] == tuple(alone)
    assert (errors[1] is None) == fits(wild, schema)
    assert errors[0] is errors[2] is errors[3] is None
    if errors[1]:
        assert errors[1].startswith("$")
        assert rows[1] == rows[2] == (None,) * len(alone)


@given(SCHEMAS, st.text(max_size=10) | st.binary(max_size=10))
def test_text_that_is_no_json_breaks_nothing(schema, text):
    columns, errors = TypedColumns(read_schema(schema)).decode([text, text[:0]])
    assert errors[1].startswith("$: expected JSON, got ")
    assert all(len(column) == 2 for column in columns)


# The columns


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"enum": ["a", "b"]}, pa.dictionary(pa.int32(), pa.string())),
        ({"const": "a"}, pa.dictionary(pa.int32(), pa.string())),
        ({"anyOf": [{"const": "a"}, {"enum": ["b"]}, NULL]}, pa.dictionary(pa.int32(), pa.string())),
        ({"enum": [1, 2]}, pa.int64()),
        ({"enum": [0, 0.5]}, pa.float64()),
        ({"const": True}, pa.bool_()),
        ({"enum": [1, "a"]}, pa.string()),
        ({"type": "integer"}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": "string"}, pa.string()),
        ({"type": "string", "format": "date"}, pa.date32()),
        ({"type": "string", "format": "date-time"}, pa.timestamp("us", tz="UTC")),
        ({"type": "string", "format": "time"}, pa.time64("us")),
        ({"type": "string", "format": "email"}, pa.string()),
        (NULL, pa.string()),
        ({"type": "array", "items": {"type": "integer"}}, pa.list_(pa.int64())),
        (schema_of({"y": {"type": "boolean"}}), pa.struct({"y": pa.bool_()})),
        ({"anyOf": [{"type": "integer"}, NULL]}, pa.int64()),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, pa.float64()),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, pa.string()),
    ],
)
def test_columns_have_the_type_of_their_schema_though_no_row_has_a_value(part, kind):
    schema = read_schema(schema_of({"x": part}))
    assert [field.type for field in arrow_fields(schema)] == [kind]
    for texts in ([], [None, "not JSON"]):
        column = TypedColumns(schema).decode(texts).columns[0]
        column.validate(full=True)
        assert (column.type, column.null_count) == (kind, len(texts))


def test_every_type_of_column_lies_in_parquet(tmp_path):
    nested = schema_of(
        {"label": {"enum": ["a", "b"]}, "when": {"type": "array", "items": {"type": "string", "format": "date"}}}
    )
    properties = {"x": nested, "y": {"type": "array", "items": nested}, "z": {"anyOf": [nested, NULL]}}
    value = {"label": "b", "when": ["2026-01-31"]}
    columns, _ = typed(properties, {"x": value, "y": [value, value], "z": None}, "lost")
    table = pa.table(columns, names=[*properties])
    pq.write_table(table, tmp_path / "a.parquet")
    came = {"label": "b", "when": [date(2026, 1, 31)]}
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [
        {"x": came, "y": [came, came], "z": None},
        {"x": None, "y": None, "z": None},
    ]


def test_the_dictionary_lists_every_choice_whatever_was_chosen():
    column = typed({"x": {"enum": ["a", "b", "c"]}}, {"x": "c"}).columns[0]
    assert column.dictionary.to_pylist() == ["a", "b", "c"]


def test_what_is_left_out_is_null():
    columns, errors = typed({"x": {"type": "string"}, "y": {"type": "integer"}}, {"x": "a"}, required=["x"])
    assert (columns[1].to_pylist(), errors) == ([None], [None])


# Where the edges are

INTEGER, NUMBER = {"type": "integer"}, {"type": "number"}
DAY, MOMENT_PART, TIME = ({"type": "string", "format": name} for name in ("date", "date-time", "time"))


@pytest.mark.parametrize(
    ("part", "value", "came"),
    [
        (INTEGER, 2**63 - 1, 2**63 - 1),
        (INTEGER, 3.0, 3),
        (NUMBER, 3, 3.0),
        (NUMBER, 10**30, 1e30),
        ({"anyOf": [INTEGER, NUMBER]}, 3, 3.0),
        (DAY, "1969-12-31", date(1969, 12, 31)),
        (MOMENT_PART, "2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        (MOMENT_PART, "2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (MOMENT_PART, "1969-12-31T23:59:59.999999Z", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (TIME, "12:00:00.5", time(12, 0, 0, 500_000)),
        (TIME, "12:00:00+02:00", time(12)),
        ({"anyOf": [INTEGER, {"type": "string"}]}, "a", '"a"'),
        ({"anyOf": [schema_of({"y": INTEGER}), schema_of({"z": DAY})]}, {"z": "2026-01-31"}, '{"z":"2026-01-31"}'),
        ({"anyOf": [{"type": "array", "items": INTEGER}, NULL]}, None, None),
    ],
)
def test_an_edge_fits(part, value, came):
    assert one(part, value) == came


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        (NUMBER, "high", '$.x: expected a number, got "high"'),
        (NUMBER, None, "$.x: expected a number, got null"),
        (NUMBER, True, "$.x: expected a number, got true"),
        ({"anyOf": [NUMBER, NULL]}, "high", '$.x: expected a number or null, got "high"'),
        (INTEGER, 2**63, "$.x: expected a whole number of 64 bits, got 9223372036854775808"),
        (INTEGER, 3.5, "$.x: expected a whole number of 64 bits, got 3.5"),
        ({**NUMBER, "exclusiveMinimum": 0}, 0, "$.x: expected a number (exclusiveMinimum 0), got 0"),
        (
            {**INTEGER, "minimum": 0.5, "maximum": 2},
            0,
            "$.x: expected a whole number of 64 bits (minimum 0.5, maximum 2), got 0",
        ),
        ({**INTEGER, "exclusiveMaximum": 2}, 2, "$.x: expected a whole number of 64 bits (exclusiveMaximum 2), got 2"),
        ({**INTEGER, "multipleOf": 5}, 7, "$.x: expected a whole number of 64 bits (multipleOf 5), got 7"),
        ({"type": "string", "pattern": "^a"}, "b", '$.x: expected text (pattern ^a), got "b"'),
        ({"enum": ["a", "b"]}, "c", '$.x: expected one of "a", "b", got "c"'),
        ({"enum": [1, True]}, False, "$.x: expected one of 1, true, got false"),
        ({"const": True}, 1, "$.x: expected one of true, got 1"),
        (DAY, "2026-02-30", '$.x: expected a date such as 2026-01-31, got "2026-02-30"'),
        (MOMENT_PART, "today", '$.x: expected a date and time such as 2026-01-31T12:00:00Z, got "today"'),
        (TIME, "25:00:00", '$.x: expected a time such as 12:00:00, got "25:00:00"'),
        ({"type": "array", "items": NUMBER}, [1, "a"], '$.x[1]: expected a number, got "a"'),
        ({"type": "array", "items": NUMBER, "minItems": 1}, [], "$.x: expected a list (minItems 1), got []"),
        (schema_of({"y": NUMBER}), {"y": 1, "z": 1}, "$.x.z: not in the schema"),
        (schema_of({"y": NUMBER}), {}, "$.x.y: missing"),
        (schema_of({"y": NUMBER}), [], "$.x: expected an object, got []"),
        ({"anyOf": [NUMBER, DAY]}, "a", '$.x: expected a number or a date such as 2026-01-31, got "a"'),
    ],
)
def test_a_mismatch_says_where_and_what(part, value, said):
    assert one(part, value) == said


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", '{"x": NaN}', '{"x": 1e999}', '```json\n{"x": 1}\n```', '{"x": 1} and more', "[" * 100_000]
)
def test_text_that_is_not_json_alone_is_reported(text):
    columns, errors = typed({"x": NUMBER}, text, {"x": 1})
    assert errors[0].startswith("$: expected JSON, got ")
    assert len(errors[0]) < 200
    assert (columns[0].to_pylist(), errors[1]) == ([None, 1.0], None)


def test_space_around_an_answer_is_json():
    assert typed({"x": NUMBER}, ' \n{"x": 1}\n').errors == [None]
