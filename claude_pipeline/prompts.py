"""From a row to a request: templates, parameters, and the address of a request.

Everything here is pure: Arrow in, bytes out. The bytes decide the `custom_id`, so whoever changes them makes
every user pay again for what they have; `tests/test_addresses.py` holds the golden file.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from claude_pipeline.errors import InputError, MissingColumnError, UnknownFieldError

ID_BYTES = 16
_BRACES = re.compile(r"\{([^{}]*)\}")
_TRAILING_ZEROS = r"(\.\d*?)0+([+-].*|Z)?$"
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_OWN_ARGUMENTS = ("model", "max_tokens", "system")
_NEVER_SENT = {
    "messages": "the messages come from the rows; use template= or prompt_column=",
    "stream": "batches are not streamed; leave it out",
}

_encode_text = msgspec.json.Encoder().encode


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request: its address (16 bytes) and its `params` as the bytes that are sent."""

    address: bytes
    params: bytes


class Unsendable(NamedTuple):
    """A row that cannot be asked, and why."""

    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True)
class Template:
    """Text with fields: `texts[0] fields[0] texts[1] … fields[-1] texts[-1]`."""

    texts: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, *, columns: Sequence[str], source: str) -> "Template":
        """Split a template at its fields.

        Braces around a column's name are a field. Around another bare name they are an error that shows the
        columns; every other brace is text, so JSON examples need no doubling.

        Raises:
            InputError: There is no field, a bare name is no column, or the text is not valid Unicode.
        """
        check_unicode("The template", text)
        texts, fields, end = [], [], 0
        for match in _BRACES.finditer(text):
            name = match[1]
            if name not in columns:
                if name.isidentifier():
                    raise UnknownFieldError(name, source=source, columns=columns)
                continue
            texts.append(text[end : match.start()])
            fields.append(name)
            end = match.end()
        if not fields:
            raise InputError(
                f"The template {_shorten(text)!r} has no field, so every row would ask the same. "
                f"Put a column's name in braces, such as {{{columns[0]}}}; {source} has: {', '.join(columns)}."
            )
        return cls((*texts, text[end:]), tuple(fields))

    @classmethod
    def of_column(cls, column: str, *, schema: pa.Schema, source: str) -> "Template":
        """Make the template that is one text column and nothing else.

        Raises:
            InputError: There is no such column, or it is not text.
        """
        if column not in schema.names:
            raise MissingColumnError(column, source=source, columns=schema.names)
        kind = schema.field(column).type
        if not _is_text(kind):
            raise InputError(
                f"The prompt column {column!r} of {source} is {kind}, not text. "
                f"Convert it to text, or write template='{{{column}}}' to print its values."
            )
        return cls(("", ""), (column,))

    def check_types(self, schema: pa.Schema) -> None:
        """Make sure that every field's column can be printed.

        Raises:
            InputError: A column's type has no plain text.
        """
        for field in self.fields:
            render_column(pa.nulls(0, schema.field(field).type), field)

    def fill(self, batch: pa.RecordBatch) -> Iterator[str | Unsendable]:
        """Yield each row's prompt, or why the row has none."""
        try:
            columns = [render_column(batch.column(field), field).to_pylist() for field in self.fields]
        except UnicodeDecodeError:
            yield from self._fill_halves(batch)
            return
        if self.texts == ("", ""):
            yield from (text if text and not text.isspace() else _BLANK for text in columns[0])
            return
        for cells in zip(*columns, strict=True):
            yield self._fill_row(cells)

    def _fill_halves(self, batch: pa.RecordBatch) -> Iterator[str | Unsendable]:
        """Narrow down which rows hold text that is not Unicode; Parquet files may."""
        if batch.num_rows == 1:
            yield _NOT_UNICODE
            return
        middle = batch.num_rows // 2
        yield from self.fill(batch.slice(0, middle))
        yield from self.fill(batch.slice(middle))

    def _fill_row(self, cells: tuple[str | None, ...]) -> str | Unsendable:
        if all(cell is None or not cell or cell.isspace() for cell in cells):
            return _BLANK
        parts = [self.texts[0]]
        for field, cell, text in zip(self.fields, cells, self.texts[1:], strict=True):
            if cell is None:
                return Unsendable("missing_field", f"Column {field!r} is null. It was not sent; fill it in the input.")
            parts += (cell, text)
        return "".join(parts)


_BLANK = Unsendable("missing_prompt", "The prompt is blank, so it was not sent.")
_NOT_UNICODE = Unsendable("invalid_text", "The prompt's text is not valid UTF-8. Mend it in the input.")


@dataclass(frozen=True, slots=True)
class RequestForm:
    """What all requests of a job share; a row only adds its prompt.

    Attributes:
        header: What the address holds beside `params`: betas and salt.
        prefix: The bytes of `params` before the prompt's JSON text.
        suffix: The bytes of `params` after it.
    """

    template: Template
    header: bytes
    prefix: bytes
    suffix: bytes

    def render(self, batch: pa.RecordBatch) -> Iterator[Request | Unsendable]:
        """Yield each row's request, or why it has none. Errors: InputError for a value that is no text."""
        shared = blake2b(self.header + self.prefix, digest_size=ID_BYTES)
        prefix, suffix = self.prefix, self.suffix
        for prompt in self.template.fill(batch):
            if isinstance(prompt, Unsendable):
                yield prompt
                continue
            tail = _encode_text(prompt) + suffix
            address = shared.copy()
            address.update(tail)
            yield Request(address.digest(), prefix + tail)


def build_form(
    template: Template,
    *,
    model: str,
    max_tokens: int,
    system: str | None = None,
    params: Mapping[str, object] | None = None,
    salt: str | None = None,
) -> RequestForm:
    """Fix the bytes that every request of a job shares.

    Top-level keys go in one order (`model`, `max_tokens`, `system`, the others by name, `messages`); nothing
    inside them is reordered.

    Raises:
        InputError: A parameter cannot be sent; names it.
    """
    _check_limits(model, max_tokens)
    extra = dict(params or {})
    for key in extra:
        _check_key(key)
    own = {"model": model, "max_tokens": max_tokens} | ({} if system is None else {"system": system})
    parts = [_member(key, value) for key, value in (own | dict(sorted(extra.items()))).items()]
    header = _to_json("salt", [[], salt]) + b"\n"
    prefix = b"{" + b",".join(parts) + b',"messages":[{"role":"user","content":'
    return RequestForm(template, header, prefix, b"}]}")


def render_column(column: pa.Array, name: str) -> pa.Array:
    """Print a column's values as text, nulls kept: one rule a type, whatever door the table came through.

    Raises:
        InputError: The type has no plain text, as with lists, structs and bytes.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return render_column(column.dictionary_decode(), name)
    if _is_text(kind):
        return column
    text = _print(column, name)
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return pc.replace_substring_regex(
            pc.replace_substring_regex(text, _TRAILING_ZEROS, r"\1\2"), r"\.([+-].*|Z)?$", r"\1"
        )
    return text


def _print(column: pa.Array, name: str) -> pa.Array:
    kind = column.type
    if not any(is_kind(kind) for is_kind in _BYTES):  # Arrow would take bytes for text
        with suppress(pa.ArrowNotImplementedError):
            return pc.cast(column, pa.string())
    raise InputError(
        f"Column {name!r} is {kind}, which has no plain text. Turn it into text before it goes into a template."
    )


def check_unicode(what: str, text: str) -> None:
    """Make sure that a text can be encoded.

    Raises:
        InputError: It holds half a character; names its place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a character (a lone surrogate) at position {error.start}. Remove it: {text[:60]!a}."
        ) from error


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def _check_limits(model: str, max_tokens: int) -> None:
    if not isinstance(model, str) or not model.strip():
        raise InputError(f"model is {model!r}. Give a model's id, such as model='claude-haiku-4-5'.")
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens!r}. Give a whole number of at least 1.")


def _check_key(key: str) -> None:
    if key in _OWN_ARGUMENTS:
        raise InputError(f"params has {key!r}, which has an argument of its own: write {key}=… instead.")
    if key in _NEVER_SENT:
        raise InputError(f"params has {key!r}: {_NEVER_SENT[key]}.")


def _member(key: str, value: object) -> bytes:
    return _to_json(key, key) + b":" + _to_json(key, value)


def _to_json(key: str, value: object) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Parameter {key!r} cannot be sent as JSON ({error}): {_shorten(repr(value))}. Use plain JSON values."
        ) from error
    check_unicode(f"Parameter {key!r}", text)
    return text.encode()


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"  # noqa: PLR2004  about a line's width
