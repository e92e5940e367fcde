"""JSON schema as types: what msgspec decodes an answer to, and the Arrow type of its column."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from functools import partial
from math import ceil, floor
from typing import Annotated, Any, Final, Literal, Optional

import msgspec
import pyarrow as pa

from claude_pipeline import columns
from claude_pipeline.columns import Column
from claude_pipeline.schema_faults import Schema, resolve
from claude_pipeline.values import shorten

_MOST: Final = (1 << 63) - 1
_NUMBERS: Final = (pa.int64(), pa.float64())
_LIMITS: Final = (
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "pattern", "minItems", "maxItems"),
)

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Kind:
    """What one part of a schema stands for.

    Attributes:
        decoded: What msgspec decodes it to; null aside.
        arrow: The type of its column.
        column: Makes the column of what was decoded.
        expected: What an answer must have there, in words.
        members: The parts of an object.
        required: Those of them that must be there.
        items: What a list holds.
    """

    decoded: Any
    arrow: pa.DataType
    column: Column
    expected: str
    nullable: bool = False
    members: Mapping[str, "Kind"] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    items: "Kind | None" = None

    @property
    def type(self) -> Any:  # noqa: ANN401  a type, in the words of typing
        """What msgspec decodes it to, null included."""
        return Optional[self.decoded] if self.nullable else self.decoded  # noqa: UP045  `|` does not know all of them


class Kinds:
    """Turns the parts of one schema into kinds."""

    def __init__(self, root: Schema) -> None:
        self._root = root

    def of(self, part: Schema) -> Kind:
        """Return the kind of a part of a schema that was read."""
        part = resolve(part, self._root)
        if parts := part.get("anyOf") or part.get("oneOf"):
            return self._of_choices(parts)
        if "enum" in part or "const" in part:
            return _of_values(_values(part))
        match part.get("type"):
            case "object" if part.get("properties"):
                return self._of_object(part)
            case "array" if "items" in part:
                return self._of_array(part)
            case str() as name if name in _SCALARS:
                return _SCALARS[name](part)
            case _:
                return _json(lambda _value: True, "JSON")

    def _of_object(self, part: Schema) -> Kind:
        members = {name: self.of(member) for name, member in part["properties"].items()}
        required = frozenset(part.get("required", ()))
        arrow = pa.struct([pa.field(name, member.arrow) for name, member in members.items()])
        decoded = _make_struct(members, required)
        blank = decoded(**dict.fromkeys(decoded.__struct_fields__))
        made = [member.column for member in members.values()]
        column = partial(columns.structs, kind=arrow, blank=blank, members=made)
        return Kind(decoded, arrow, column, "an object", members=members, required=required)

    def _of_array(self, part: Schema) -> Kind:
        items = self.of(part["items"])
        arrow, column = columns.list_column(items.arrow, items.column)
        decoded = _limited(
            list.__class_getitem__(items.type), min_length=part.get("minItems"), max_length=part.get("maxItems")
        )
        return Kind(decoded, arrow, column, f"a list{_limits(part)}", items=items)

    def _of_choices(self, parts: Sequence[Schema]) -> Kind:
        found = [resolve(part, self._root) for part in parts]
        if all(part.keys() & {"enum", "const"} or part.get("type") == "null" for part in found):
            return _of_values([value for part in found for value in _values(part)])
        kinds = [self.of(part) for part in parts]
        plain = [kind for kind in kinds if kind.decoded is not type(None)]
        kind = plain[0] if len(plain) == 1 else _union(plain)
        return replace(kind, nullable=len(plain) < len(kinds) or any(kind.nullable for kind in plain))


def fits(value: object, kind: Kind) -> bool:
    """Say whether a value of plain JSON is of a kind."""
    try:
        msgspec.convert(value, kind.type, dec_hook=read_checked)
    except msgspec.ValidationError:
        return False
    return True


def read_checked(kind: Any, value: object) -> Any:  # noqa: ANN401  msgspec's hook
    """Read a value that msgspec cannot check by itself.

    Raises:
        ValueError: It does not fit.
    """
    if not kind.fits(value):
        raise ValueError(value)
    return kind(_encode(value).decode() if issubclass(kind, str) else value)


def _checked(base: type, check: Callable[[object], bool]) -> type:
    return type("Checked", (base,), {"fits": staticmethod(check)})


def _json(check: Callable[[object], bool], expected: str) -> Kind:
    return Kind(_checked(str, check), pa.string(), columns.texts, expected)


def _make_struct(members: Mapping[str, Kind], required: frozenset[str]) -> type[msgspec.Struct]:
    names = {f"f{place}": name for place, name in enumerate(members)}
    fields: list[Any] = [
        (own, members[name].type) if name in required else (own, members[name].type, None)
        for own, name in names.items()
    ]
    return msgspec.defstruct("Answer", fields, rename=names, forbid_unknown_fields=True, kw_only=True, gc=False)


def _union(kinds: Sequence[Kind]) -> Kind:
    expected = " or ".join(dict.fromkeys(kind.expected for kind in kinds))

    def check(value: object) -> bool:
        return any(fits(value, kind) for kind in kinds)

    if all(kind.arrow in _NUMBERS for kind in kinds):
        return Kind(_checked(float, check), pa.float64(), columns.numbers, expected)
    return _json(check, expected)


def _values(part: Schema) -> list[Any]:
    listed: list[Any] = part["enum"] if "enum" in part else [part.get("const")]
    return listed


def _of_values(values: Sequence[Any]) -> Kind:
    distinct = list({(type(value), value): value for value in values if value is not None}.values())
    nullable = None in values
    types = {*map(type, distinct)}
    expected = f"one of {shorten(', '.join(_encode(value).decode() for value in distinct))}"
    if not distinct:
        return _null({})
    if types == {str}:
        column = partial(columns.choices, of=distinct)
        kind = pa.dictionary(pa.int32(), pa.string())
        return Kind(Literal[tuple(distinct)], kind, column, expected, nullable=nullable)
    if types == {int} and all(-_MOST <= value <= _MOST for value in distinct):
        return Kind(Literal[tuple(distinct)], pa.int64(), columns.integers, expected, nullable=nullable)

    def check(value: object) -> bool:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in distinct)

    if types <= {int, float}:
        return Kind(_checked(float, check), pa.float64(), columns.numbers, expected, nullable=nullable)
    if types == {bool}:
        return Kind(_checked(int, check), pa.bool_(), columns.bools, expected, nullable=nullable)
    return replace(_json(check, expected), nullable=nullable)


def _null(_part: Schema) -> Kind:
    return Kind(type(None), pa.string(), columns.texts, "null")


def _bool(_part: Schema) -> Kind:
    return Kind(bool, pa.bool_(), columns.bools, "true or false")


def _string(part: Schema) -> Kind:
    match part.get("format"):
        case "date":
            return Kind(date, pa.date32(), columns.dates, "a date such as 2026-01-31")
        case "date-time":
            expected = "a date and time such as 2026-01-31T12:00:00Z"
            return Kind(datetime, pa.timestamp("us", tz="UTC"), columns.moments, expected)
        case "time":
            return Kind(time, pa.time64("us"), columns.times, "a time such as 12:00:00")
    limits = {"min_length": part.get("minLength"), "max_length": part.get("maxLength"), "pattern": part.get("pattern")}
    return Kind(_limited(str, **limits), pa.string(), columns.texts, f"text{_limits(part)}")


def _integer(part: Schema) -> Kind:
    least = max(-_MOST - 1, ceil(part.get("minimum", -_MOST - 1)), floor(part.get("exclusiveMinimum", -_MOST - 2)) + 1)
    most = min(_MOST, floor(part.get("maximum", _MOST)), ceil(part.get("exclusiveMaximum", _MOST + 1)) - 1)
    step = part.get("multipleOf")
    whole = int(step) if step and step == int(step) and step <= _MOST else None
    decoded = _limited(int, ge=min(least, _MOST), le=max(most, -_MOST - 1), multiple_of=whole)
    return Kind(decoded, pa.int64(), columns.integers, f"a whole number of 64 bits{_limits(part)}")


def _number(part: Schema) -> Kind:
    limits = {}
    for inclusive, exclusive, key, beyond, tighter in (
        ("minimum", "exclusiveMinimum", "ge", "gt", max),
        ("maximum", "exclusiveMaximum", "le", "lt", min),
    ):
        given = {name: part[name] for name in (inclusive, exclusive) if name in part}
        if given:
            bound = tighter(given.values())
            limits[beyond if given.get(exclusive) == bound else key] = float(bound)
    return Kind(_limited(float, **limits), pa.float64(), columns.numbers, f"a number{_limits(part)}")


def _limited(kind: Any, **limits: Any) -> Any:  # noqa: ANN401  types and their limits, in msgspec's words
    given = {key: value for key, value in limits.items() if value is not None}
    return Annotated[kind, msgspec.Meta(**given)] if given else kind


def _limits(part: Schema) -> str:
    given = [f"{key} {part[key]}" for key in _LIMITS if key in part]
    return f" ({', '.join(given)})" if given else ""


_SCALARS: Final[Mapping[str, Callable[[Schema], Kind]]] = {
    "null": _null,
    "boolean": _bool,
    "string": _string,
    "integer": _integer,
    "number": _number,
}
