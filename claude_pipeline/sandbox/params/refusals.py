"""Say in the API's words what does not fit a shape."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from claude_pipeline.sandbox.errors import InvalidRequestError

T = TypeVar("T")
Step = str | int

# What the client wrote may be quoted in a reason; the place that ends it is never the client's to write.
REASON: Final = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<place>[\w.\[\]]*)`)?", re.DOTALL)
STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
WRONG_TYPE: Final = re.compile(r"Expected `([^`]*)`, got `[^`]*`")
WRONG_CHOICE: Final = re.compile(r"Invalid (?:enum )?value '(.*)'", re.DOTALL)
OUT_OF_BOUNDS: Final = re.compile(r"Expected `\w+` (>=|<=|of length <=|matching regex) (.*)")

TYPES: Final = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "array": "list",
    "object": "dictionary",
}
BOUNDS: Final = {
    ">=": "Input should be greater than or equal to {}",
    "<=": "Input should be less than or equal to {}",
    "of length <=": "List should have at most {} items",
    "matching regex": "String should match pattern {}",
}


def fit(value: object, shape: type[T], *, path: str = "") -> T:
    """Return a decoded JSON value, found at the path, as the shape, or raise an `InvalidRequestError`."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(_refusal(str(error), value, shape, path=path)) from None


def refuse_tag(tag: object, *, path: str, known: Iterable[object]) -> InvalidRequestError:
    """Say that a type is none of the known ones."""
    return InvalidRequestError(
        f"{path}: Input tag {tag!r} found using 'type' does not match any of the expected tags: "
        f"{', '.join(map(repr, known))}"
    )


def _refusal(reason: str, value: object, shape: type, *, path: str) -> str:
    what, place = _parted(reason)
    if match := MISSING.fullmatch(what):
        return f"{_dotted(path, *place, match[1])}: Field required"
    if match := UNKNOWN.fullmatch(what):
        return f"{_dotted(path, *place, match[1])}: Extra inputs are not permitted"
    if match := WRONG_CHOICE.fullmatch(what):
        return _wrong_choice(match[1], place, _kind(shape), value=value, path=path)
    return f"{_dotted(path, *place) or 'params'}: {_wording(what)}"


@cache
def _kind(shape: type) -> inspect.Type:
    return inspect.type_info(shape)


def _parted(reason: str) -> tuple[str, list[Step]]:
    match = REASON.fullmatch(reason)
    what, place = match.group("what", "place") if match else (reason, None)
    return what, [int(index) if index else key for key, index in STEP.findall(place or "")]


def _wording(what: str) -> str:
    if match := WRONG_TYPE.fullmatch(what):
        names = [TYPES.get(name, name) for name in match[1].split(" | ") if name != "null"]
        return f"Input should be a valid {' or '.join(names)}"
    if match := OUT_OF_BOUNDS.fullmatch(what):
        return BOUNDS[match[1]].format(match[2].removesuffix(".0").replace(r"\\Z", "$"))
    return what


def _wrong_choice(chosen: str, place: Sequence[Step], kind: inspect.Type, *, value: object, path: str) -> str:
    *above, last = place
    parents = _options(_walked(kind, above, value=value))
    tags = [parent.tag for parent in parents if isinstance(parent, inspect.StructType) and parent.tag_field == last]
    if tags and last == "type":
        return refuse_tag(chosen, path=_dotted(path, *above), known=tags).message
    choices = tags or _choices(_walked(kind, place, value=value))
    return f"{_dotted(path, *place)}: Input should be {_either(choices)}"


def _walked(kind: inspect.Type, steps: Iterable[Step], *, value: Any) -> inspect.Type:  # noqa: ANN401 - whatever the client sent
    for step in steps:
        kind = next(_inner(option, step) for option in _options(kind) if _is_meant(option, value))
        value = value[step]
    return kind


def _is_meant(option: inspect.Type, value: object) -> bool:
    if isinstance(option, inspect.StructType) and isinstance(value, dict):
        return option.tag_field is None or value.get(option.tag_field) == option.tag
    return isinstance(option, inspect.ListType) and isinstance(value, list)


def _inner(kind: inspect.Type, step: Step) -> inspect.Type:
    if isinstance(kind, inspect.ListType):
        return kind.item_type
    fields = kind.fields if isinstance(kind, inspect.StructType) else ()
    return next(field.type for field in fields if field.name == step)


def _choices(kind: inspect.Type) -> list[object]:
    literals = (option for option in _options(kind) if isinstance(option, inspect.LiteralType))
    return [choice for literal in literals for choice in literal.values]


def _options(kind: inspect.Type) -> Sequence[inspect.Type]:
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def _either(choices: Sequence[object]) -> str:
    *others, last = map(repr, choices)
    return f"{', '.join(others)} or {last}" if others else last


def _dotted(path: str, *steps: Step) -> str:
    return ".".join(map(str, (path, *steps) if path else steps))
