"""What an answer function may return."""

from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final

import msgspec
from msgspec import Struct

from claude_pipeline.sandbox.blocks import Block, TextBlock, read_block
from claude_pipeline.sandbox.errors import ApiError
from claude_pipeline.sandbox.wire import StopDetails, StopReason

AnswerFunction = Callable[[dict[str, Any]], str | Sequence[dict[str, Any]] | dict[str, Any]]

SHOWN: Final = 100
_LOG: Final = getLogger(__name__)
WAY_OUT: Final = (
    "It may return a text, a list of content blocks, "
    "or a dict with content and, if it likes, stop_reason, stop_sequence and stop_details."
)


class AnswerError(ApiError, TypeError):
    """The answer function raised, or returned what is no answer; to a client it is an `api_error`."""


class AnswerReturnError(AnswerError):
    """What the answer function returned is no answer."""

    def __init__(self, returned: object, *, reason: Exception | None = None) -> None:
        shown = repr(returned)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
        what = "" if reason is None else f": {reason}"
        super().__init__(
            "api_error", f"The answer function returned {shown} ({type(returned).__name__}){what}. {WAY_OUT}"
        )


class AnswerRaisedError(AnswerError):
    """The answer function raised; the message says where."""

    def __init__(self, reason: Exception) -> None:
        frame, line = [*walk_tb(reason.__traceback__)][-1]
        where = f"{Path(frame.f_code.co_filename).name}, line {line}"
        super().__init__("api_error", f"The answer function raised {type(reason).__name__}: {reason} ({where})")


class Written(Struct, frozen=True):
    """What an answer function returned, its blocks complete."""

    content: Sequence[Block]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


class _Returned(Struct, frozen=True, forbid_unknown_fields=True):
    content: str | list[dict[str, Any]]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


def ask(write: AnswerFunction, params: dict[str, Any]) -> str | Written:
    """Let an answer function write.

    Raises:
        AnswerError: It raised, or what it returned is no answer.
    """
    try:
        returned = write(params)
    except Exception as reason:
        error = AnswerRaisedError(reason)
        # A line and no traceback: there may be one a row.
        _LOG.error("%s", error)
        raise error from reason
    if isinstance(returned, str):
        if not returned.isascii():
            _check_encodable(returned)
        return returned
    if not isinstance(returned, dict | list | tuple):
        raise AnswerReturnError(returned)
    return _read(returned)


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AnswerReturnError(text, reason=error) from None


def _read(returned: Mapping[str, Any] | Sequence[Any]) -> Written:
    try:
        # By way of JSON, so that what follows meets only what JSON has.
        value = msgspec.json.decode(msgspec.json.encode(returned))
        read = msgspec.convert(value if isinstance(value, dict) else {"content": value}, _Returned)
        return Written(_blocks(read.content), read.stop_reason, read.stop_sequence, read.stop_details)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise AnswerReturnError(returned, reason=error) from None


def _blocks(content: str | list[dict[str, Any]]) -> Sequence[Block]:
    return [TextBlock(text=content)] if isinstance(content, str) else [read_block(block) for block in content]
