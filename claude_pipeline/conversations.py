"""Conversations: a column that holds the messages so far."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa

from claude_pipeline.cells import check_json, is_list, parse_json, plain_type, read_cells
from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.templates import BLANK
from claude_pipeline.values import Cell, Unsendable, is_text, shorten

_ROLES = ("user", "assistant", "system")

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class MessagesSlot(msgspec.Struct, frozen=True, tag="messages"):
    """Where a row's messages go, separated by commas, and with one behind each if another message follows.

    Attributes:
        is_followed: The template's text follows as the next message.
    """

    column: str
    is_followed: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns that it reads."""
        return (self.column,)

    def check_types(self, schema: pa.Schema, *, source: str) -> None:
        """Make sure that the column may hold conversations.

        Raises:
            InputError: There is no such column, or its type is something else.
        """
        if self.column not in schema.names:
            raise MissingColumnError(self.column, source=source, columns=schema.names)
        kind = schema.field(self.column).type
        fault = _find_fault(plain_type(kind))
        if fault:
            raise InputError(
                f"The messages column {self.column!r} of {source} {fault}. "
                "A conversation is a list of {role, content}, or text with such a list as JSON."
            )
        check_json(kind, self.column)

    def fill(self, batch: pa.RecordBatch) -> Iterator[Cell]:
        """Yield each row's messages, or why the row has none."""
        for cell in read_cells(batch.column(self.column), self.column):
            try:
                yield cell if isinstance(cell, Unsendable) else self._write(_parse(cell))
            except _FaultError as fault:
                yield Unsendable("invalid_messages", f"Column {self.column!r}: {fault}")

    def _write(self, messages: list[Any]) -> Cell:
        if not messages:
            return b"" if self.is_followed else BLANK
        for place, message in enumerate(messages, 1):
            _check_message(message, place)
        try:
            text = _encode([_in_order(message) for message in messages])[1:-1].encode()
        except (ValueError, RecursionError) as error:
            raise _FaultError(f"the messages cannot be sent as JSON ({error}). Mend them in the input.") from error
        return text + b"," if self.is_followed else text


class _FaultError(Exception):
    """What is wrong with a conversation, and the way out."""


def _in_order(message: dict[str, Any]) -> dict[str, Any]:
    """Put role and content first, so that the order of an Arrow struct's fields does not matter."""
    if list(message)[:2] == ["role", "content"]:
        return message
    return {key: message[key] for key in ("role", "content") if key in message} | message


# Types


def _find_fault(kind: pa.DataType) -> str | None:
    """Say why a column of this type holds no conversations, if it does not."""
    if is_text(kind):
        return None
    if not is_list(kind) or not _holds_objects(kind):
        return f"is {shorten(str(kind))}"
    message = plain_type(kind.value_type)
    return None if pa.types.is_null(message) else _find_field_fault(message)


def _holds_objects(kind: pa.DataType) -> bool:
    inner = plain_type(kind.value_type)
    return bool(pa.types.is_struct(inner) or pa.types.is_null(inner))  # a list that is empty in every row


def _find_field_fault(message: pa.StructType) -> str | None:
    kinds = {field.name: plain_type(field.type) for field in message}
    for key in ("role", "content"):
        if key not in kinds:
            return f"has messages without {key!r}; they have: {', '.join(kinds)}"
    role, content = kinds["role"], kinds["content"]
    if not is_text(role):
        return f"has roles that are {shorten(str(role))}, not text"
    if is_text(content) or (is_list(content) and _holds_objects(content)):
        return None
    return f"has content that is {shorten(str(content))}, neither text nor a list of content blocks"


# Rows


def _parse(cell: str | list[Any] | None) -> list[Any]:
    """Return the messages of a cell; none if it is empty."""
    if cell is None or not isinstance(cell, str):
        return cell or []
    if not cell or cell.isspace():
        return []
    try:
        messages = parse_json(cell)
    except (ValueError, RecursionError) as error:
        raise _FaultError(
            f"{shorten(repr(cell))} is not JSON ({error}). Write conversations with json.dumps, not with str."
        ) from error
    if messages is not None and not isinstance(messages, list):
        raise _FaultError(f"{shorten(repr(cell))} is not a list. Write a list of {{role, content}}.")
    return messages or []


def _check_message(message: object, place: int) -> None:
    if not isinstance(message, dict):
        raise _FaultError(
            f"message {place} is {_show(message)}, not an object with role and content. Mend it in the input."
        )
    if message.get("role") not in _ROLES:
        raise _FaultError(
            f"message {place} has role {_show(message.get('role'))}. A role is one of: {', '.join(_ROLES)}."
        )
    if place == 1 and message["role"] != "user":
        way_out = "Give its text as system=" if message["role"] == "system" else "Remove it, or begin with a question"
        raise _FaultError(
            f"message {place} is from the {message['role']}, but the first must be from the user. {way_out}."
        )
    if message.get("content") is None and message["role"] == "system" and message.get("output_config"):
        return
    _check_content(message.get("content"), place)


def _check_content(content: object, place: int) -> None:
    if content is None or content == [] or (isinstance(content, str) and (not content or content.isspace())):
        raise _FaultError(f"message {place} has no content. Give it some, or remove the message.")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise _FaultError(f"message {place} has content {_show(content)}. It must be text or a list of content blocks.")
    for number, block in enumerate(content, 1):
        if not isinstance(block, dict):
            raise _FaultError(
                f"block {number} of message {place} is {_show(block)}, not an object. Mend it in the input."
            )


def _show(value: object) -> str:
    return "null" if value is None else shorten(repr(value))
