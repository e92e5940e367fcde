"""What a result line says, and who should be asked again because of it."""

import re
from typing import ClassVar, Literal

import msgspec

from claude_pipeline.errors import ResultsError

Verdict = Literal["succeeded", "final", "again", "account", "canceled", "missing"]

_NO_CREDIT = re.compile(r"credit balance is too low", re.IGNORECASE)
_ACCOUNT_ERRORS = frozenset({"authentication_error", "permission_error", "billing_error"})
_FINAL_ERRORS = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})


class Block(msgspec.Struct, gc=False):
    """A block of an answer."""

    type: str
    text: str | None = None
    citations: list[msgspec.Raw] | None = None


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int = 0


class _ServerToolUse(msgspec.Struct, gc=False):
    web_search_requests: int = 0


class Usage(msgspec.Struct, gc=False):
    """What an answer was billed for."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    server_tool_use: _ServerToolUse | None = None

    @property
    def searches(self) -> int:
        """Web searches, which are billed one by one."""
        return self.server_tool_use.web_search_requests if self.server_tool_use else 0


class Message(msgspec.Struct, gc=False):
    """An answer."""

    model: str
    content: tuple[Block, ...]
    usage: Usage
    stop_reason: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is one text that cites nothing: the text says it all."""
        return len(self.content) == 1 and self.content[0].type == "text" and not self.content[0].citations

    @property
    def text(self) -> str | None:
        """Its text blocks, joined; None without one."""
        texts = [block.text for block in self.content if block.type == "text" and block.text is not None]
        return "".join(texts) if texts else None


class ErrorDetail(msgspec.Struct, gc=False):
    """What went wrong."""

    type: str
    message: str = ""


class Spent(msgspec.Struct, gc=False):
    """What a streamed request has used that came to no answer; the API's own lines have none."""

    model: str
    usage: Usage


class ErrorBody(msgspec.Struct, gc=False):
    """What went wrong, around which the API puts another layer."""

    error: ErrorDetail
    request_id: str | None = None


# All kinds of results have the same attributes, so that they can be read column by column.


class Succeeded(msgspec.Struct, gc=False, tag="succeeded"):
    """A result that is an answer."""

    kind: ClassVar = "succeeded"
    error: ClassVar[None] = None
    spent: ClassVar[None] = None
    message: Message


class Errored(msgspec.Struct, gc=False, tag="errored"):
    """A result that is an error."""

    kind: ClassVar = "errored"
    message: ClassVar[None] = None
    error: ErrorBody
    spent: Spent | None = None


class Canceled(msgspec.Struct, gc=False, tag="canceled"):
    """A result of a request that was not processed, since its batch was canceled."""

    kind: ClassVar = "canceled"
    message: ClassVar[None] = None
    error: ClassVar[None] = None
    spent: ClassVar[None] = None


class Expired(msgspec.Struct, gc=False, tag="expired"):
    """A result of a request that was not processed in 24 hours."""

    kind: ClassVar = "expired"
    message: ClassVar[None] = None
    error: ClassVar[None] = None
    spent: ClassVar[None] = None


Result = Succeeded | Errored | Canceled | Expired


class _Line(msgspec.Struct, gc=False):
    result: Result


_decode = msgspec.json.Decoder(_Line).decode


def decode_line(line: bytes) -> Result:
    """Read a result line.

    Raises:
        ResultsError: It is no result.
    """
    try:
        return _decode(line).result
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResultsError(f"A result line is not what the API documents ({error}): {line[:80]!r}") from error


def searches_of(line: bytes) -> int:
    """Count the web searches that a result line has been billed for."""
    result = decode_line(line)
    paid = result.message or result.spent
    return paid.usage.searches if paid else 0


def verdict_on(result: Result) -> Verdict:
    """Say who should be asked again."""
    if result.error:
        return judge(result.error.error.type, result.error.error.message)
    if result.message:
        return "succeeded"
    return "canceled" if result.kind == "canceled" else "again"


def judge(error_type: str, message: str) -> Verdict:
    """Say whether a row that errored would fail again, may pass, or waits for its account to be mended."""
    if _NO_CREDIT.search(message) or error_type in _ACCOUNT_ERRORS:
        return "account"
    return "final" if error_type in _FINAL_ERRORS else "again"
