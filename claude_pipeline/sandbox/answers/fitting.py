"""A value that fits a JSON schema: the same for the same prompt, another for most others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import count
from random import Random
from typing import Any, Final

from claude_pipeline.sandbox.answers.numerals import draw_number
from claude_pipeline.sandbox.answers.schemas import (
    ExhaustedError,
    Schema,
    Schemas,
    UnfittableError,
    is_same,
    item_schema,
    merged,
)
from claude_pipeline.sandbox.answers.wording import draw_string

BUSHY: Final = 4
DEEPEST: Final = 32
MOST_ITEMS_UNASKED: Final = 3
TRIES_TO_DIFFER: Final = 20

_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "string": str,
    "array": list,
    "object": dict,
}
_SHALLOW_FIRST: Final = (*("null", "boolean", "integer", "number", "string"), "array", "object")
_TELLTALES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("properties", "required", "additionalProperties", "minProperties", "maxProperties"), "object"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "maxItems", "uniqueItems"), "array"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
}


def fit(schema: object, *, prompt: str) -> Any:  # noqa: ANN401 - JSON
    """Return a value that fits a schema, or None if none is found; strings are words of the prompt.

    `oneOf` is read as `anyOf`; `not`, `if`, `contains`, `patternProperties` and the like are not read.
    """
    seed = int.from_bytes(blake2b(prompt.encode(errors="surrogatepass"), digest_size=8).digest())
    try:
        return _Fitter(schema, seed=seed, words=prompt.split()).value(schema, depth=0)
    except (UnfittableError, ExhaustedError, RecursionError):
        return None


class _Fitter:
    def __init__(self, root: object, *, seed: int, words: Sequence[str]) -> None:
        self._schemas = Schemas(root)
        self._random = Random(seed)  # noqa: S311 - a choice, not a secret
        self._words = words
        self._kinds: Mapping[str, Callable[[Schema, int], object]] = {
            "null": lambda _schema, _depth: None,
            "boolean": lambda _schema, _depth: self._random.random() < 1 / 2,
            "integer": lambda schema, _depth: draw_number(schema, integer=True, random=self._random),
            "number": lambda schema, _depth: draw_number(schema, integer=False, random=self._random),
            "string": lambda schema, _depth: draw_string(schema, random=self._random, words=self._words),
            "array": self._array,
            "object": self._object,
        }

    def value(self, schema: object, *, depth: int) -> object:
        if depth > DEEPEST:
            raise UnfittableError
        return self._choose(self._schemas.flatten(schema), depth)

    def _choose(self, schema: Schema, depth: int) -> object:
        groups = schema.get("choices", [])
        if not groups:
            return self._of_some_type(schema, depth)
        rest = {**schema, "choices": groups[1:]}
        branches = [*self._flattened(groups[0], rest)]
        return self._first_that_fits(self._in_order(branches, depth), lambda branch: self._choose(branch, depth))

    def _flattened(self, branches: Sequence[object], rest: Schema) -> Iterator[Schema]:
        for branch in branches:
            try:
                yield merged(rest, self._schemas.flatten(branch))
            except UnfittableError:
                continue

    def _in_order(self, branches: list[Schema], depth: int) -> list[Schema]:
        self._random.shuffle(branches)
        if depth > BUSHY:
            branches.sort(key=lambda branch: min(map(_weight, _types(branch)), default=0))
        return branches

    def _first_that_fits(self, options: Sequence[Any], make: Callable[[Any], object]) -> object:
        for option in options:
            try:
                return make(option)
            except UnfittableError:
                continue
        raise UnfittableError

    def _of_some_type(self, schema: Schema, depth: int) -> object:
        if "enum" in schema:
            return self._one_of(schema["enum"], schema.get("type"))
        types = [*_types(schema)]
        self._random.shuffle(types)
        if depth > BUSHY:
            types.sort(key=_weight)
        return self._first_that_fits(types, lambda name: self._kinds[name](schema, depth))

    def _one_of(self, values: Sequence[object], types: Sequence[str] | None) -> object:
        fitting = [value for value in values if types is None or any(_is_of_type(value, name) for name in types)]
        if not fitting:
            raise UnfittableError
        return self._random.choice(fitting)

    def _object(self, schema: Schema, depth: int) -> object:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        most = schema.get("maxProperties", len(properties) + len(required))
        made: dict[str, object] = {}
        for name in [*properties, *(name for name in required if name not in properties)]:
            member = properties.get(name, schema.get("additionalProperties", True))
            if name in required:
                made[name] = self.value(member, depth=depth + 1)
            elif depth <= BUSHY and len(made) + len(required) < most:
                made.update(self._optional(name, member, depth))
        self._add_properties(made, schema, depth)
        if len(made) > schema.get("maxProperties", len(made)):
            raise UnfittableError
        return made

    def _optional(self, name: str, schema: object, depth: int) -> dict[str, object]:
        try:
            return {name: self.value(schema, depth=depth + 1)}
        except UnfittableError:
            return {}

    def _add_properties(self, made: dict[str, object], schema: Schema, depth: int) -> None:
        names = (name for number in count(1) if (name := f"key_{number}") not in schema.get("properties", {}))
        optional = [name for name in schema.get("properties", {}) if name not in made]
        while len(made) < schema.get("minProperties", 0):
            if optional:
                name = optional.pop(0)
                made.update(self._optional(name, schema["properties"][name], depth))
            else:
                made[next(names)] = self.value(schema.get("additionalProperties", True), depth=depth + 1)

    def _array(self, schema: Schema, depth: int) -> object:
        made: list[object] = []
        least, most = schema.get("minItems", 0), schema.get("maxItems", MOST_ITEMS_UNASKED)
        wanted = least if depth > BUSHY else max(least, min(most, self._random.randint(1, MOST_ITEMS_UNASKED)))
        for place in range(wanted):
            try:
                made.append(self._item(schema, made, depth))
            except UnfittableError:
                if place < least:
                    raise
                break
        if len(made) > schema.get("maxItems", len(made)):
            raise UnfittableError
        return made

    def _item(self, schema: Schema, made: Sequence[object], depth: int) -> object:
        for _ in range(TRIES_TO_DIFFER):
            item = self.value(item_schema(schema, len(made)), depth=depth + 1)
            if not schema.get("uniqueItems") or not any(is_same(item, other) for other in made):
                return item
        raise UnfittableError


def _types(schema: Schema) -> Sequence[str]:
    if "enum" in schema:
        # As shallow as can be.
        return ["null"]
    if "type" in schema:
        return [name for name in schema["type"] if name in _TYPES]
    return [next((_TELLTALES[key] for key in schema if key in _TELLTALES), "string")]


def _weight(name: str) -> int:
    return _SHALLOW_FIRST.index(name)


def _is_of_type(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, float) and name == "integer":
        return value.is_integer()
    return name in _TYPES and isinstance(value, _TYPES[name])
