"""What a user gives as an output schema, and what the API gets."""

import dataclasses
import enum
import subprocess
import sys
from datetime import date, datetime, time
from typing import Annotated, Any, Literal

import anthropic
import pydantic
import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from claude_pipeline.errors import InputError
from claude_pipeline.schema_faults import MAX_OPTIONAL, MAX_UNIONS
from claude_pipeline.schemas import output_format, parse_fields, read_schema, with_output_format
from claude_pipeline.typed import arrow_fields


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str
    price: Annotated[float, Field(ge=0)]


class Order(BaseModel):
    """What was ordered."""

    zip_code: Annotated[str, Field(description="As it is written", pattern=r"^\d+$")]
    items: list[Item]
    color: Color
    when: date | None
    note: str = ""


@dataclasses.dataclass
class Review:
    sentiment: Literal["positive", "negative"]
    score: float


class Row(TypedDict):
    sentiment: Literal["positive", "negative"]
    score: float


class Node(BaseModel):
    label: str
    children: "list[Node]"


SCORE = {"sentiment": {"type": "string", "enum": ["positive", "negative"]}, "score": {"type": "number"}}


def obj(properties, **more):
    return {"type": "object", "properties": properties, "required": [*properties], **more}


def refusal(given):
    with pytest.raises(InputError) as caught:
        read_schema(given)
    return str(caught.value)


# What is given


def test_a_model_becomes_what_the_sdk_makes_of_it():
    sent = output_format(read_schema(Order))
    assert sent == {"type": "json_schema", "schema": anthropic.transform_schema(Order)}
    assert [*sent["schema"]["properties"]] == ["zip_code", "items", "color", "when", "note"]


def test_every_object_that_is_sent_is_closed():
    schema = output_format(read_schema(obj({"a": obj({"b": {"type": "string"}})})))["schema"]
    assert schema["additionalProperties"] is schema["properties"]["a"]["additionalProperties"] is False


@pytest.mark.parametrize("given", [Review, Row, {"sentiment": "positive|negative", "score": float}])
def test_a_dataclass_a_typed_dict_and_names_with_types_have_the_same_columns(given):
    assert arrow_fields(read_schema(given)) == arrow_fields(read_schema(obj(SCORE)))


def test_names_and_types_become_a_schema_without_a_word_more():
    expected = obj(SCORE, additionalProperties=False)
    assert read_schema({"sentiment": "positive|negative", "score": float}) == expected
    assert read_schema("sentiment: positive|negative, score: float") == expected


def test_names_may_have_any_type_that_pydantic_knows_and_nest():
    schema = read_schema({"order": Order, "colors": list[Color], "who": {"name": str, "age": "int?"}})
    assert set(schema["$defs"]) == {"Item", "Color"}
    assert [str(field.type) for field in arrow_fields(schema)[1:]] == [
        "list<item: dictionary<values=string, indices=int32, ordered=0>>",
        "struct<name: string, age: int64>",
    ]


def test_two_types_of_one_name_are_refused():
    other = pydantic.create_model("Item", size=(int, ...))
    assert refusal({"a": list[Item], "b": list[other]}) == (
        "output_schema.b uses a second type of the name 'Item'. Rename one of them."
    )


def test_a_field_may_be_called_type():
    assert [*read_schema({"type": "bug|feature", "properties": "text"})["properties"]] == ["type", "properties"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("str", {"type": "string"}),
        ("text", {"type": "string"}),
        ("int", {"type": "integer"}),
        ("bool", {"type": "boolean"}),
        ("date", {"type": "string", "format": "date"}),
        ("datetime", {"type": "string", "format": "date-time"}),
        ("time", {"type": "string", "format": "time"}),
        ("very good | bad", {"type": "string", "enum": ["very good", "bad"]}),
        ("float?", {"anyOf": [{"type": "number"}, {"type": "null"}]}),
        ("list[a|b]", {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}),
        ("list[list[int]]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
    ],
)
def test_a_text_names_a_type(text, part):
    assert parse_fields(f"first: int, it: {text}\nlast: str")["properties"] == {
        "first": {"type": "integer"},
        "it": part,
        "last": {"type": "string"},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("score: flot", "output_schema.score is 'flot', which is no type. Did you mean float?"),
        ("score: number of stars", "There are: text, str, int,"),
        ("score", "output_schema has 'score'. Write each field as name: type, such as score: float."),
        ("score: int, score: float", "output_schema names 'score' twice."),
        ("score: int|str", "where 'int' is no choice"),
        ("score: a|a", "where 'a' is no choice"),
        ("score: a||b", "where '' is no choice"),
        ("score: list[a]|list[b]", "output_schema.score[] is"),
        ("", "output_schema is an object without properties."),
    ],
)
def test_a_text_that_is_no_list_of_fields_is_refused(text, said):
    assert said in refusal(text)


# What is meant by it


def test_the_spellings_of_older_json_schemas_are_understood():
    old = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": "#/definitions/Root",
        "definitions": {
            "Root": obj({"who": {"allOf": [{"$ref": "#/definitions/Who"}]}, "when": {"type": ["string", "null"]}}),
            "Who": obj({"name": {"type": "string"}}),
        },
    }
    schema = read_schema(old)
    assert [str(field.type) for field in arrow_fields(schema)] == ["struct<name: string>", "string"]
    assert "$schema" not in str(output_format(schema))
    assert schema["properties"]["when"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_the_format_joins_the_other_parameters():
    schema = read_schema(Review)
    params = {"temperature": 0, "output_config": {"effort": "low"}}
    assert with_output_format(params, schema) == {
        "temperature": 0,
        "output_config": {"effort": "low", "format": output_format(schema)},
    }
    assert params["output_config"] == {"effort": "low"}
    with pytest.raises(InputError, match=r"output_config\.format beside output_schema="):
        with_output_format({"output_config": {"format": {"type": "json_schema"}}}, schema)


# What the API cannot take

NODE = obj({"child": {"$ref": "#/$defs/Node"}})
TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({}, "output_schema.x has no type."),
        (True, "output_schema.x is True, which is no schema."),
        ({"type": "int"}, "output_schema.x has the type 'int'."),
        ({"type": "object"}, "output_schema.x is an object without properties."),
        (obj({"y": TEXT}, additionalProperties=TEXT), "output_schema.x has 'additionalProperties', which the API"),
        (obj({"y": {"type": "array"}}), "output_schema.x.y is an array of anything."),
        ({"type": "array", "items": {"type": "list"}}, "output_schema.x[] has the type 'list'."),
        ({"type": "array", "prefixItems": [TEXT]}, "output_schema.x has 'prefixItems', which the API cannot take."),
        ({"type": "string", "not": {"const": ""}}, "output_schema.x has 'not', which the API cannot take."),
        ({"anyOf": [TEXT, {"type": "tuple"}]}, "output_schema.x.anyOf[1] has the type 'tuple'."),
        ({"anyOf": [TEXT], "type": "string"}, "output_schema.x has 'type' beside its choices."),
        ({"anyOf": "ab"}, "output_schema.x has 'ab' to choose from."),
        ({"allOf": [TEXT, TEXT]}, "output_schema.x has 'allOf', which the API cannot take. Merge its parts into one."),
        ({"enum": []}, "output_schema.x has the enum []."),
        ({"enum": [{}]}, "output_schema.x has {} in its enum."),
        (
            {"$ref": "https://example.com/a.json"},
            "output_schema.x refers to 'https://example.com/a.json', which is not",
        ),
        ({"$ref": "#/$defs/Gone"}, "output_schema.x refers to '#/$defs/Gone', which is not among its $defs."),
        ({"$ref": "#/$defs/Node"}, "output_schema.x.child holds itself ('Node'), and the API takes no recursion."),
        ({"type": "string", "pattern": "("}, "output_schema.x has the pattern '(', which cannot be read"),
        ({"type": "number", "minimum": "0"}, "output_schema.x has '0' for minimum."),
        ({"type": "number", "minimum": 10**400}, "Give a number below 1e300."),
        ({"type": "integer", "multipleOf": 0}, "output_schema.x has 0 for multipleOf."),
        ({"type": "string", "minLength": -1}, "output_schema.x has -1 for minLength."),
        ({"type": "string", "maxLength": 2**70}, "Give a whole number of at least 0, and below 2,147,483,648."),
        ({**obj({"y": TEXT}), "required": ["z"]}, "output_schema.x requires ['z'], but has y."),
        (obj({'a"b': TEXT}), "output_schema.x has a property 'a\"b'."),
        (obj({"": TEXT}), "output_schema.x has a property ''."),
    ],
)
def test_what_the_api_cannot_take_is_refused_and_named(part, said):
    assert said in refusal(obj({"x": part}, **{"$defs": {"Node": NODE}}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": "string"}, "output_schema is no object but 'string'."),
        (list[int], "output_schema is no object but 'array'."),
        ({"anyOf": [obj({"x": TEXT}), obj({"y": TEXT})]}, "output_schema is no object but ['anyOf']."),
        ({"$ref": "#"}, "output_schema is no object but ['$ref']."),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "output_schema is no object but"),
        (Node, "output_schema.children[].children[] holds itself ('Node')"),
        (7, "output_schema is 7, which has no JSON schema"),
        ({"a": object()}, "output_schema.a is <object object"),
        ({"a": Any}, "output_schema.a has no type."),
        ({"a": dict[str, int]}, "output_schema.a has 'additionalProperties', which the API cannot take."),
        ({"a": tuple[int, str]}, "output_schema.a has 'prefixItems', which the API cannot take."),
        (obj({"x": {"type": "string", "default": {1}}}), "cannot be sent as JSON"),
    ],
)
def test_a_whole_that_the_api_cannot_take_is_refused(given, said):
    assert said in refusal(given)


def test_a_type_that_is_used_twice_is_no_recursion():
    assert len(arrow_fields(read_schema({"a": Item, "b": Item, "c": list[Item]}))) == 3


def test_more_optional_properties_than_the_api_takes_are_refused():
    few = {f"p{number}": TEXT for number in range(MAX_OPTIONAL)}
    assert read_schema({"type": "object", "properties": few})
    too_many = {"type": "object", "properties": {**few, "one": TEXT}}
    assert "output_schema has 25 properties that are not required; the API takes 24." in refusal(too_many)


def test_more_parts_that_may_be_null_than_the_api_takes_are_refused():
    few = dict.fromkeys((f"p{number}" for number in range(MAX_UNIONS)), "int?")
    assert read_schema(few)
    assert "output_schema has 17 parts of several types" in refusal({**few, "one": "int?"})


# Columns


def test_a_models_types_and_descriptions_become_those_of_the_columns():
    fields = arrow_fields(read_schema(Order))
    assert {field.name: str(field.type) for field in fields} == {
        "zip_code": "string",
        "items": "list<item: struct<name: string, price: double>>",
        "color": "dictionary<values=string, indices=int32, ordered=0>",
        "when": "date32[day]",
        "note": "string",
    }
    assert fields[0].metadata == {b"description": b"As it is written"}
    assert fields[1].metadata is None


def test_the_schema_that_was_sent_has_the_same_columns():
    schema = read_schema({"order": Order, "at": datetime, "on": time, "n": "int?"})
    assert arrow_fields(output_format(schema)["schema"]) == arrow_fields(schema)


def test_reading_fields_and_answers_needs_neither_pandas_nor_the_sdk():
    code = """if 1:
        import sys
        from claude_pipeline.schemas import parse_fields
        from claude_pipeline.typed import TypedColumns
        typed = TypedColumns(parse_fields("a: x|y, b: list[float?], c: datetime, d: bool?, e: date"))
        typed.decode(['{"a":"x","b":[1,null],"c":"2026-01-01T00:00:00Z","d":null,"e":"2026-01-01"}', None])
        assert not {"pandas", "anthropic", "pydantic"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)
