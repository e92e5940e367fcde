"""Names and their types, as JSON schema."""

import re
from collections.abc import Mapping
from datetime import date, datetime, time
from difflib import get_close_matches
from typing import Any, Final

from claude_pipeline.errors import InputError
from claude_pipeline.schema_faults import ROOT, Schema, SchemaError
from claude_pipeline.values import shorten

_PYTHON_TYPES: Final[Mapping[object, Schema]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    date: {"type": "string", "format": "date"},
    datetime: {"type": "string", "format": "date-time"},
    time: {"type": "string", "format": "time"},
}
_WORDS: Final[Mapping[str, Schema]] = {
    "text": {"type": "string"},
    **{kind.__name__: schema for kind, schema in _PYTHON_TYPES.items() if isinstance(kind, type)},
}
_NO_CHOICES: Final = {*_WORDS, "list", "null", "None", ""}
_LIST: Final = re.compile(r"list\[(.*)\]", re.DOTALL)
_COMMA: Final = re.compile(r"[,\n](?![^\[]*\])")  # but for those within brackets


class FieldReader:
    """Reads a type, or names and their types.

    Attributes:
        defs: What the schemas that were read refer to.
    """

    def __init__(self) -> None:
        self.defs: Schema = {}

    def read(self, given: object, path: str) -> Schema:
        """Return the JSON schema of a part.

        Raises:
            SchemaError: It has none; names the part.
        """
        if isinstance(given, Mapping):
            return self._object(given, path)
        if isinstance(given, str):
            return _read_words(given, path)
        if isinstance(given, type) and given in _PYTHON_TYPES:
            return dict(_PYTHON_TYPES[given])
        return self._of_type(given, path)

    def _object(self, given: Mapping[Any, object], path: str) -> Schema:
        properties = {str(name): self.read(kind, f"{path}.{name}") for name, kind in given.items()}
        return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}

    def _of_type(self, given: Any, path: str) -> Schema:  # noqa: ANN401  whatever pydantic knows
        from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter  # noqa: PLC0415  slow

        try:
            schema: Schema = TypeAdapter(given).json_schema()
        except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
            reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
            way_out = "Give a pydantic model, a dataclass, a JSON schema, or names and their types."
            fault = f"is {shorten(repr(given))}, which has no JSON schema ({reason})"
            raise SchemaError(path, fault, way_out=way_out) from error
        for name, definition in schema.pop("$defs", {}).items():
            if self.defs.setdefault(name, definition) != definition:
                raise SchemaError(path, f"uses a second type of the name {name!r}", way_out="Rename one of them.")
        return schema


def split_fields(text: str) -> dict[str, str]:
    """Split `name: type, name: type` into names and their types, in their order.

    Raises:
        InputError: A name has no type, or stands twice.
    """
    fields: dict[str, str] = {}
    for field in filter(str.strip, _COMMA.split(text)):
        name, colon, kind = (piece.strip() for piece in field.partition(":"))
        if not colon or not name:
            raise InputError(f"{ROOT} has {field.strip()!r}. Write each field as name: type, such as score: float.")
        if name in fields:
            raise InputError(f"{ROOT} names {name!r} twice. Rename one of them.")
        fields[name] = kind
    return fields


def _read_words(text: str, path: str) -> Schema:
    word = text.strip()
    if word.endswith("?"):
        return {"anyOf": [_read_words(word[:-1], path), {"type": "null"}]}
    if word in _WORDS:
        return dict(_WORDS[word])
    if found := _LIST.fullmatch(word):
        return {"type": "array", "items": _read_words(found[1], f"{path}[]")}
    choices = [choice.strip() for choice in word.split("|")]
    if len(choices) == 1:
        nearest = get_close_matches(word, _WORDS, n=1, cutoff=0.5)
        hint = f"Did you mean {nearest[0]}?" if nearest else f"There are: {', '.join(_WORDS)}, list[…] and a|b."
        raise SchemaError(path, f"is {word!r}, which is no type", way_out=hint)
    for choice in choices:
        if choice in _NO_CHOICES or choices.count(choice) > 1 or "[" in choice:
            way_out = "Choices are different words; a type that may be null ends in ?, such as float?."
            raise SchemaError(path, f"is {word!r}, where {choice!r} is no choice", way_out=way_out)
    return {"type": "string", "enum": choices}
