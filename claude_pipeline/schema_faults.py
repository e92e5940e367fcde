"""What the API cannot take in an output schema."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from claude_pipeline.errors import InputError
from claude_pipeline.values import shorten

Schema = dict[str, Any]

ROOT: Final = "output_schema"
# The API's limits for all schemas of a request together.
MAX_OPTIONAL: Final = 24
MAX_UNIONS: Final = 16
# Beyond these no answer could be held to them.
MAX_LIMIT: Final = 1e300
MAX_COUNT: Final = 1 << 31

JSON_TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")
_COUNTS: Final = ("minLength", "maxLength", "minItems", "maxItems")
_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_REWRITE: Final = "Write out what may stand there, with anyOf if need be."
_NAME_KEYS: Final = "Give each key that there may be as a property."
_UNSUPPORTED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("not", "if", "then", "else", "contains", "dependentRequired", "dependentSchemas"), _REWRITE),
    **dict.fromkeys(("dependencies", "unevaluatedItems", "additionalItems", "$dynamicRef", "$recursiveRef"), _REWRITE),
    **dict.fromkeys(("patternProperties", "propertyNames", "unevaluatedProperties"), _NAME_KEYS),
    "prefixItems": "Use an object with a name for each place.",
    "allOf": "Merge its parts into one.",
}
_UNNAMEABLE: Final = re.compile(r'^$|["\\\x00-\x1f]')


class SchemaError(InputError):
    """A part of an output schema that the API cannot take."""

    def __init__(self, part: str, fault: str, *, way_out: str) -> None:
        super().__init__(f"{part} {fault}. {way_out}")


def check_schema(schema: Schema) -> None:
    """Refuse the first part that the API cannot take.

    Raises:
        SchemaError: There is one; names it.
    """
    _Check(schema).root()


def resolve(part: Schema, root: Schema) -> Schema:
    """Return what a part that is a `$ref` refers to, if it is found."""
    seen = set()
    while isinstance(part, dict) and (name := _referred(part)) in root.get("$defs", {}) and name not in seen:
        seen.add(name)
        part = root["$defs"][name]
    return part


def _referred(part: Schema) -> str | None:
    reference = part.get("$ref")
    found = re.fullmatch(r"#/\$defs/(.+)", reference) if isinstance(reference, str) else None
    return found[1].replace("~1", "/").replace("~0", "~") if found else None


class _Check:
    """Refuses the first part that the API cannot take."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._checked: set[str] = set()
        self._optional = 0
        self._unions = 0

    def root(self) -> None:
        if self._root.get("type") != "object":
            kind = shorten(repr(self._root.get("type", [*self._root])))
            way_out = "Give an object, whose properties become the columns."
            raise SchemaError(ROOT, f"is no object but {kind}", way_out=way_out)
        self._part(self._root, ROOT)
        for count, most, what, way_out in (
            (self._optional, MAX_OPTIONAL, "properties that are not required", "Require more of them."),
            (self._unions, MAX_UNIONS, "parts of several types (null is one)", "Leave out null where you can."),
        ):
            if count > most:
                raise SchemaError(ROOT, f"has {count} {what}; the API takes {most}", way_out=way_out)

    def _part(self, part: object, path: str, within: tuple[str, ...] = ()) -> None:
        if not isinstance(part, dict):
            raise SchemaError(path, f"is {shorten(repr(part))}, which is no schema", way_out="Give it a type.")
        for key in part:
            if key in _UNSUPPORTED:
                raise SchemaError(path, f"has {key!r}, which the API cannot take", way_out=_UNSUPPORTED[key])
        if "$ref" in part:
            self._reference(part, path, within)
        elif choices := part.get("anyOf") or part.get("oneOf"):
            self._choices(part, choices, path, within)
        elif "enum" in part or "const" in part:
            _check_values(part.get("enum", [part.get("const")]), path)
        else:
            self._type(part, path, within)

    def _reference(self, part: Schema, path: str, within: tuple[str, ...]) -> None:
        name = _referred(part)
        if name is None or name not in self._root.get("$defs", {}):
            fault = f"refers to {part['$ref']!r}, which is not among its $defs"
            raise SchemaError(path, fault, way_out="Put the definition there.")
        if name in within:
            way_out = "Write out as many levels as you need."
            raise SchemaError(path, f"holds itself ({name!r}), and the API takes no recursion", way_out=way_out)
        if name not in self._checked:
            self._part(self._root["$defs"][name], path, (*within, name))
            self._checked.add(name)

    def _choices(self, part: Schema, choices: object, path: str, within: tuple[str, ...]) -> None:
        if not isinstance(choices, list):
            raise SchemaError(path, f"has {shorten(repr(choices))} to choose from", way_out="Give a list of schemas.")
        for key in ("type", "enum", "const", "properties", "required", "items"):
            if key in part:
                raise SchemaError(path, f"has {key!r} beside its choices", way_out="Put it into each choice of anyOf.")
        self._unions += 1
        for number, choice in enumerate(choices):
            self._part(choice, f"{path}.anyOf[{number}]", within)

    def _type(self, part: Schema, path: str, within: tuple[str, ...]) -> None:
        kind = part.get("type")
        if kind not in JSON_TYPES:
            fault = f"has the type {kind!r}" if "type" in part else "has no type"
            raise SchemaError(path, fault, way_out=f"Give one of {', '.join(JSON_TYPES)}.")
        _check_constraints(part, path)
        if kind == "object":
            for name, member in self._members(part, path):
                self._part(member, f"{path}.{name}", within)
        elif kind == "array":
            if "items" not in part:
                raise SchemaError(path, "is an array of anything", way_out="Say in items what it holds.")
            self._part(part["items"], f"{path}[]", within)

    def _members(self, part: Schema, path: str) -> Iterator[tuple[str, object]]:
        properties, required = part.get("properties"), part.get("required", [])
        if part["additionalProperties"] is not False:
            fault = "has 'additionalProperties', which the API cannot take"
            raise SchemaError(path, fault, way_out=_NAME_KEYS)
        if not isinstance(properties, dict) or not properties:
            raise SchemaError(path, "is an object without properties", way_out=_NAME_KEYS)
        for name in properties:
            if _UNNAMEABLE.search(name):
                raise SchemaError(path, f"has a property {name!r}", way_out="Give it a name without quotes in it.")
        if not isinstance(required, list) or not all(name in properties for name in required):
            way_out = "Name properties that it has."
            raise SchemaError(
                path, f"requires {shorten(repr(required))}, but has {', '.join(properties)}", way_out=way_out
            )
        self._optional += len(properties) - len(set(required))
        yield from properties.items()


def _check_values(values: object, path: str) -> None:
    if not isinstance(values, list) or not values:
        raise SchemaError(path, f"has the enum {shorten(repr(values))}", way_out="List the values that it may have.")
    for value in values:
        if isinstance(value, dict | list):
            way_out = "An enum holds text, numbers, bools and null."
            raise SchemaError(path, f"has {shorten(repr(value))} in its enum", way_out=way_out)


def _check_constraints(part: Schema, path: str) -> None:
    for key, value in part.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_LIMIT
        if key in _NUMBERS and not is_number:
            raise SchemaError(path, f"has {shorten(repr(value))} for {key}", way_out="Give a number below 1e300.")
        if key == "multipleOf" and value <= 0:
            raise SchemaError(path, f"has {value!r} for {key}", way_out="Give a number above 0.")
        if key in _COUNTS and not (is_number and isinstance(value, int) and 0 <= value < MAX_COUNT):
            fault = f"has {shorten(repr(value))} for {key}"
            raise SchemaError(path, fault, way_out="Give a whole number of at least 0, and below 2,147,483,648.")
    try:
        re.compile(part.get("pattern", ""))
    except (re.error, TypeError) as error:
        fault = f"has the pattern {part['pattern']!r}, which cannot be read ({error})"
        raise SchemaError(path, fault, way_out="Mend it, or leave it out.") from error
