"""Output schemas: what a user gives, as the JSON schema that the API takes.

The SDK and pydantic are imported only when they are needed, for both are slow to import.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from claude_pipeline.errors import InputError
from claude_pipeline.fields import FieldReader, split_fields
from claude_pipeline.schema_faults import JSON_TYPES, ROOT, Schema, check_schema, resolve
from claude_pipeline.values import to_json

_NOTES: Final = ("title", "description", "default", "examples", "deprecated")
_DROPPED: Final = ("$schema", "$id", "$comment")


def read_schema(given: object) -> Schema:
    """Read an output schema as plain JSON schema: an object whose properties keep their order.

    What the API does not hold answers to (`minimum`, `pattern` and the like) stays in it.

    Args:
        given: A pydantic model, a dataclass, a `TypedDict`, a JSON schema, or names and their types: as a dict such
            as `{"sentiment": "positive|negative", "score": float}`, or as a text (see `parse_fields`).

    Raises:
        InputError: It is no such thing, or the API cannot take a part of it; names the part.
    """
    schema = _at_root(_tidy(_as_json_schema(given)))
    check_schema(schema)
    return schema


def parse_fields(text: str) -> Schema:
    """Read names and types, such as `sentiment: positive|negative, score: float?, tags: list[str]`.

    Types are `str` (or `text`), `int`, `float`, `bool`, `date`, `datetime`, `time`, `list[…]` of one of these, or
    words to choose from with `|` in between. `?` behind a type: it may be null.

    Raises:
        InputError: A name has no type, one that there is not, or stands twice.
    """
    return read_schema(split_fields(text))


def output_format(schema: Schema) -> dict[str, object]:
    """Return what goes into `output_config.format` for a schema that was read."""
    from anthropic import transform_schema  # noqa: PLC0415  slow, and loaded already where there is a client

    return {"type": "json_schema", "schema": transform_schema(schema)}


def with_output_format(params: Mapping[str, object], schema: Schema) -> dict[str, object]:
    """Add the schema to a request's other parameters.

    Raises:
        InputError: They ask for a format of their own.
    """
    config = params.get("output_config") or {}
    if not isinstance(config, Mapping) or config.get("format") is not None:
        raise InputError("params has an output_config.format beside output_schema=. Give one of them.")
    return {**params, "output_config": {**config, "format": output_format(schema)}}


def _as_json_schema(given: object) -> Schema:
    if isinstance(given, str):
        given = split_fields(given)
    if isinstance(given, Mapping) and _is_json_schema(given):
        plain: Schema = json.loads(to_json(ROOT, given))
        return plain
    reader = FieldReader()
    schema = reader.read(given, ROOT)
    return {**schema, "$defs": reader.defs} if reader.defs else schema


def _is_json_schema(given: Mapping[Any, object]) -> bool:
    """Tell a JSON schema from names and their types, which may well be called `type`."""
    if given.get("type") in JSON_TYPES or "$ref" in given or "$schema" in given:
        return True
    return any(isinstance(given.get(key), list) for key in ("type", "anyOf", "oneOf", "allOf")) or any(
        key in given and isinstance(given.get("properties", {}), Mapping) for key in ("properties", "$defs")
    )


# What is meant by it, in the words that the SDK's transform knows


def _tidy(part: Any) -> Any:  # noqa: ANN401  JSON
    if not isinstance(part, dict):
        return part
    tidy = {_renamed(key): _tidy_member(key, value) for key, value in part.items() if key not in _DROPPED}
    match tidy:
        case {"allOf": [dict() as only]}:
            tidy = {**only, **{key: value for key, value in tidy.items() if key != "allOf"}}
    if isinstance(types := tidy.get("type"), list) and types and not tidy.keys() & {"enum", "const"}:
        tidy = _split_types(tidy, types)
    if tidy.get("type") == "object":
        tidy.setdefault("additionalProperties", False)
    return tidy


def _renamed(key: str) -> str:
    return "$defs" if key == "definitions" else key


def _tidy_member(key: str, value: Any) -> Any:  # noqa: ANN401  JSON
    if key == "$ref" and isinstance(value, str):
        return value.replace("#/definitions/", "#/$defs/", 1)
    if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
        return {name: _tidy(part) for name, part in value.items()}
    if key in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
        return [_tidy(part) for part in value]
    return _tidy(value) if key == "items" else value


def _split_types(part: Schema, types: list[Any]) -> Schema:
    rest = {key: value for key, value in part.items() if key not in (*_NOTES, "type", "$defs")}
    choices = [{"type": name} if name == "null" else _tidy({"type": name, **rest}) for name in types]
    notes = {key: value for key, value in part.items() if key in (*_NOTES, "$defs")}
    return {**(choices[0] if len(choices) == 1 else {"anyOf": choices}), **notes}


def _at_root(schema: Schema) -> Schema:
    """Put in place what the root only refers to."""
    found = resolve(schema, schema)
    return schema if found is schema else {**found, "$defs": schema.get("$defs", {})}
