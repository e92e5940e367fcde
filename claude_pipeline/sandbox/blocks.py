"""The content blocks of an answer, key for key as the API shows them."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

DIRECT: Final = {"type": "direct"}


class TextBlock(Struct, frozen=True, kw_only=True, gc=False):
    """Text, and where it was found if the prompt asks for citations."""

    type: Literal["text"] = "text"
    text: str
    citations: Sequence[dict[str, Any]] | None = None


class ThinkingBlock(Struct, frozen=True, kw_only=True, gc=False):
    """Thoughts; the signature is missing where they were cut."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class ToolUseBlock(Struct, frozen=True, kw_only=True, gc=False):
    """A call of one of the request's tools; the id stays empty until the request is at hand."""

    type: Literal["tool_use"] = "tool_use"
    id: str = ""
    caller: dict[str, Any] | None = msgspec.field(default_factory=lambda: DIRECT)
    input: dict[str, Any]
    name: str
    toolset_name: str | None = None


class _Typed(Struct, gc=False):
    type: str


Block = TextBlock | ThinkingBlock | ToolUseBlock | dict[str, Any]

_KNOWN: Final = {"text": TextBlock, "thinking": ThinkingBlock, "tool_use": ToolUseBlock}


def read_block(block: dict[str, Any]) -> Block:
    """Complete a block of the API's shape; one of a type not made here stays as it is.

    Raises:
        msgspec.ValidationError: A key is missing or of the wrong type.
    """
    known = _KNOWN.get(msgspec.convert(block, _Typed).type)
    return block if known is None else msgspec.convert(block, known)
