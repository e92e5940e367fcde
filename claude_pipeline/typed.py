"""Answers as typed columns: texts that are JSON, by the schema that was asked for.

| schema | Arrow |
|---|---|
| enum of text | dictionary of int32 and string |
| `integer`, enum of whole numbers | int64 |
| `number`, other enums of numbers | float64 |
| `boolean` | bool |
| `string` | string |
| with format `date`, `date-time`, `time` | date32, timestamp[us, UTC], time64[us] |
| `object`, `array` | struct, list |
| several types but for null | string that holds JSON |
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa

from claude_pipeline.kinds import Kind, Kinds, fits, read_checked
from claude_pipeline.schema_faults import Schema, resolve
from claude_pipeline.values import shorten

_EXACT_FLOATS: Final = 1 << 53
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encode = msgspec.json.Encoder().encode


class Typed(NamedTuple):
    """Answers as columns.

    Attributes:
        columns: One a field of the schema; null where there is no answer, or where it does not fit.
        errors: For each answer its first mismatch, such as `$.score: expected a number, got "high"`; None if it fits,
            or if there is no answer.
    """

    columns: list[pa.Array]
    errors: list[str | None]


class TypedColumns:
    """Turns the answers to one schema into columns.

    Attributes:
        fields: The columns, by the schema's properties in their order; a property's description is in the metadata.
    """

    def __init__(self, schema: Schema) -> None:
        """Take a schema as `read_schema` or `output_format` return it."""
        self._kind = Kinds(schema).of(schema)
        self._decode = msgspec.json.Decoder(self._kind.decoded, dec_hook=read_checked).decode
        self._blank = self._kind.decoded(**dict.fromkeys(self._kind.decoded.__struct_fields__))
        self.fields: list[pa.Field] = [
            pa.field(name, kind.arrow, metadata=_notes(schema["properties"][name], schema))
            for name, kind in self._kind.members.items()
        ]

    def decode(self, texts: Sequence[str | bytes | None]) -> Typed:
        """Type each answer; None stands for none."""
        rows, errors = [], []
        for text in texts:
            row, error = self._blank, None
            if text is not None:
                try:
                    row = self._decode(text)
                except _UNREADABLE:
                    row, error = self._look_closer(text)
            rows.append(row)
            errors.append(error)
        members = enumerate(self._kind.members.values())
        columns = [kind.column([*map(attrgetter(f"f{place}"), rows)]) for place, kind in members]
        return Typed(columns, errors)

    def _look_closer(self, text: str | bytes) -> tuple[Any, str | None]:
        """Take 3.0 for the whole number that it is in JSON schema, or find what does not fit."""
        try:
            value = _whole(msgspec.json.decode(text))
            if fits(value, self._kind):
                return msgspec.convert(value, self._kind.decoded, dec_hook=read_checked), None
            return self._blank, find_mismatch(value, self._kind)
        except _UNREADABLE as error:
            return self._blank, f"$: expected JSON, got {shorten(repr(text))} ({error})"


def arrow_fields(schema: Schema) -> list[pa.Field]:
    """Return the columns of a schema that was read, with descriptions in their metadata."""
    return TypedColumns(schema).fields


def find_mismatch(value: object, kind: Kind, path: str = "$") -> str | None:
    """Say where a value of plain JSON first differs from its kind, if it does."""
    if value is None and kind.nullable:
        return None
    if kind.members and isinstance(value, dict):
        return _find_in_object(value, kind, path)
    inner = None
    if kind.items and isinstance(value, list):
        inner = _first(find_mismatch(item, kind.items, f"{path}[{place}]") for place, item in enumerate(value))
    if inner or fits(value, kind):
        return inner
    or_null = " or null" if kind.nullable else ""
    return f"{path}: expected {kind.expected}{or_null}, got {shorten(_encode(value).decode())}"


def _find_in_object(value: dict[str, object], kind: Kind, path: str) -> str | None:
    missing = (f"{path}.{name}: missing" for name in kind.members if name in kind.required and name not in value)
    unknown = (f"{path}.{name}: not in the schema" for name in value if name not in kind.members)
    wrong = (
        find_mismatch(value[name], member, f"{path}.{name}") for name, member in kind.members.items() if name in value
    )
    return _first(chain(missing, unknown, wrong))


def _first(faults: Iterable[str | None]) -> str | None:
    return next(filter(None, faults), None)


def _whole(value: Any) -> Any:  # noqa: ANN401  JSON
    match value:
        case dict():
            return {name: _whole(member) for name, member in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer() and abs(value) <= _EXACT_FLOATS:
            return int(value)
    return value


def _notes(part: Schema, root: Schema) -> dict[str, str] | None:
    description = part.get("description") or resolve(part, root).get("description")
    return {"description": description} if isinstance(description, str) else None
