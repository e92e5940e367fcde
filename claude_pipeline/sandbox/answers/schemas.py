"""JSON schemas made plain: references followed, and what must hold together merged."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import reduce
from math import gcd, isfinite, lcm
from typing import Any, Final
from urllib.parse import unquote

Schema = Mapping[str, Any]

DEEPEST: Final = 64
MOST_STEPS: Final = 20_000


class UnfittableError(Exception):
    """No value fits this part of a schema."""


class ExhaustedError(Exception):
    """It takes too long to find out whether a value fits."""


class Schemas:
    """The parts of one schema document, flattened on request."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._steps = 0

    def flatten(self, schema: object, *, depth: int = 0) -> Schema:
        """Return a schema without `$ref`, `allOf` and `const`, and with `anyOf` and `oneOf` listed as `choices`.

        Raises:
            UnfittableError: Nothing fits.
            ExhaustedError: This was asked too often.
        """
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise ExhaustedError
        if schema is False or depth > DEEPEST:
            raise UnfittableError
        if not isinstance(schema, dict):
            return {}
        if "allOf" not in schema and "$ref" not in schema:
            return _known(schema)
        parts = [*_listed(schema.get("allOf"))]
        if isinstance(reference := schema.get("$ref"), str):
            parts.append(self._find(reference))
        return reduce(merged, [self.flatten(part, depth=depth + 1) for part in parts], _known(schema))

    def _find(self, reference: str) -> object:
        found = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            match found:
                case dict():
                    found = found.get(name)
                case list() if name.isdecimal() and int(name) < len(found):
                    found = found[int(name)]
                case _:
                    return {}
        return found


def merged(one: Schema, other: Schema) -> Schema:
    """Return the schema of what fits both; both are flat.

    Raises:
        UnfittableError: Their types or enums have nothing in common.
    """
    both = {**one, **other}
    for key in one.keys() & other.keys() & _MERGES.keys():
        both[key] = _MERGES[key](one[key], other[key])
    if "properties" in both:
        names = {**one.get("properties", {}), **other.get("properties", {})}
        both["properties"] = {name: _both(_member(one, name), _member(other, name)) for name in names}
    if "prefixItems" in both:
        places = range(max(len(schema.get("prefixItems", ())) for schema in (one, other)))
        both["prefixItems"] = [_both(item_schema(one, place), item_schema(other, place)) for place in places]
    return both


def item_schema(schema: Schema, place: int) -> object:
    """Return what the item at a place must fit."""
    first: list[object] = schema.get("prefixItems", [])
    return first[place] if place < len(first) else schema.get("items", True)


def _member(schema: Schema, name: str) -> object:
    known: dict[str, object] = schema.get("properties", {})
    return known[name] if name in known else schema.get("additionalProperties", True)


def _both(one: object, other: object) -> object:
    if one is False or other is False:
        return False
    if one is True or other is True:
        return other if one is True else one
    return {"allOf": [one, other]}


def _same_types(one: list[str], other: list[str]) -> list[str]:
    types = [name for name in one if name in other or (name == "integer" and "number" in other)]
    types += [name for name in other if name == "integer" and "number" in one and name not in types]
    if not types:
        raise UnfittableError
    return types


def _same_values(one: list[object], other: list[object]) -> list[object]:
    values = [value for value in one if any(is_same(value, another) for another in other)]
    if not values:
        raise UnfittableError
    return values


def is_same(one: object, other: object) -> bool:
    """Say whether two JSON values are equal; Python's true is its 1, JSON's is not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _common_multiple(one: float, other: float) -> float:
    a, b = Fraction(str(one)), Fraction(str(other))
    common = Fraction(lcm(a.numerator, b.numerator), gcd(a.denominator, b.denominator))
    return common.numerator if common.denominator == 1 else float(common)


_MERGES: Final[Mapping[str, Callable[[Any, Any], object]]] = {
    "type": _same_types,
    "enum": _same_values,
    "choices": lambda one, other: [*one, *other],
    "required": lambda one, other: [*dict.fromkeys([*one, *other])],
    "additionalProperties": _both,
    "items": _both,
    "multipleOf": _common_multiple,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    "pattern": lambda one, _other: one,
    "format": lambda one, _other: one,
    "uniqueItems": lambda one, other: one or other,
}


def _known(schema: dict[str, Any]) -> Schema:
    known = {key: value for key, value in schema.items() if key in _READS and _READS[key](value)}
    if "type" in known:
        known["type"] = [known["type"]] if isinstance(known["type"], str) else known["type"]
    if "const" in schema:
        known["enum"] = _same_values([schema["const"]], known.get("enum", [schema["const"]]))
    if groups := [group for key in ("anyOf", "oneOf") if key in schema and (group := _listed(schema[key]))]:
        known["choices"] = groups
    return known


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_READS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "type": lambda value: isinstance(value, str) or (_is_strings(value) and bool(value)),
    "enum": lambda value: isinstance(value, list) and bool(value),
    "properties": lambda value: isinstance(value, dict),
    "required": _is_strings,
    "additionalProperties": lambda value: isinstance(value, dict | bool),
    "items": lambda value: isinstance(value, dict | bool),
    "prefixItems": lambda value: isinstance(value, list) and bool(value),
    "pattern": lambda value: isinstance(value, str),
    "format": lambda value: isinstance(value, str),
    "uniqueItems": lambda value: isinstance(value, bool),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count),
}
