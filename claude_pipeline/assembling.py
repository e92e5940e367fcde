"""The events of a streamed message become the message that the API would have answered at once.

Pure. Every piece is kept once and joined at the end, so a long answer costs as much a byte as a short one.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw

from claude_pipeline.errors import ApiError
from claude_pipeline.events import Delta, Event, decode_event

_TEXTS = ("text", "thinking", "signature")
_PIECES = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}


class _Ending(msgspec.Struct):
    delta: dict[str, Any] = {}
    usage: dict[str, Any] | None = None


class _ErrorDetail(msgspec.Struct):
    type: str = "api_error"
    message: str = ""


def broken(message: str) -> ApiError:
    """Say why a stream is no whole answer, though the API named no error."""
    return ApiError(message, error_type="api_error")


_decode_ending = msgspec.json.Decoder(_Ending).decode
_decode_error = msgspec.json.Decoder(_ErrorDetail).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class _Block:
    """A block of the content: how it began, and the pieces that came since, by the field that they go to."""

    begun: dict[str, Any]
    pieces: dict[str, list[str]] = field(default_factory=dict)
    citations: list[Raw] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        name = _PIECES.get(delta.type)
        if name:
            self.pieces.setdefault(name, []).append(getattr(delta, name))
        elif delta.type == "citations_delta":
            self.citations.append(delta.citation)  # any other is of a kind that came after this was written

    @property
    def text(self) -> str:
        """What it says so far."""
        return f"{self.begun.get('text') or ''}{''.join(self.pieces.get('text', ()))}"

    def build(self, stop_reason: str | None) -> dict[str, Any]:
        """Put the block together.

        Raises:
            ApiError: The input of a tool is no JSON, though nothing cut it off.
        """
        built = dict(self.begun)
        for name in _TEXTS:
            if name in self.pieces:
                built[name] = f"{built.get(name) or ''}{''.join(self.pieces[name])}"
        if self.citations:
            built["citations"] = [*(built.get("citations") or ()), *self.citations]
        if text := "".join(self.pieces.get("partial_json", ())):
            built["input"] = _tool_input(text, stop_reason)
        return built


def _tool_input(text: str, stop_reason: str | None) -> Raw | dict[str, Any]:
    """Keep the input as it came; of one that `max_tokens` cut off nothing is known to be whole."""
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        if stop_reason == "max_tokens":
            return {}
        raise broken(f"The input of a tool is no JSON ({error}).") from None
    return Raw(text.encode())


class Assembly:
    """A message as far as its events have come."""

    def __init__(self) -> None:
        self.is_complete = False
        self._begun: dict[str, Any] = {}
        self._ending: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, _Block] = {}

    def add(self, data: bytes) -> Event:
        """Take the data of an event, and return what it says.

        Raises:
            ApiError: It is an error, or no event.
        """
        try:
            event = decode_event(data)
            if event.type == "content_block_delta":
                if event.delta and (block := self._blocks.get(event.index)):
                    block.add(event.delta)
            else:
                self._take(event, data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise broken(f"An event is not what the API documents ({error}).") from None
        return event

    def _take(self, event: Event, data: bytes) -> None:
        match event.type:
            case "message_start":
                self._begun = _decode_object(event.message)
                self._count(self._begun.get("usage"))
            case "content_block_start":
                self._blocks[event.index] = _Block(_decode_object(event.content_block))
            case "message_delta":
                ending = _decode_ending(data)
                self._ending |= ending.delta
                self._count(ending.usage)
            case "message_stop":
                self.is_complete = True
            case "error":
                detail = _decode_error(event.error)
                raise ApiError(detail.message or detail.type, error_type=detail.type)
            case _:  # pings, ends of blocks, and what came after this was written
                pass

    def _count(self, usage: object) -> None:
        """Take what is counted so far: a later figure stands for all that came before it."""
        if isinstance(usage, dict):
            self._usage |= {name: count for name, count in usage.items() if count is not None}

    @property
    def has_begun(self) -> bool:
        """Whether the API has begun to answer, and so to bill."""
        return bool(self._begun)

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens as last counted, in the API's words."""
        return self._usage

    @property
    def model(self) -> str | None:
        """Who answers."""
        return self._begun.get("model")

    @property
    def text(self) -> str:
        """What the blocks of text say so far."""
        return "".join(block.text for block in self._blocks.values())

    @property
    def is_plain_text(self) -> bool:
        """Whether all of it so far is text that cites nothing, so that it can be continued."""
        return all(block.begun.get("type") == "text" and not block.citations for block in self._blocks.values())

    def message(self) -> dict[str, Any]:
        """Put the message together.

        Raises:
            ApiError: The stream ended before the message did, or a block is damaged.
        """
        if not self.is_complete:
            raise broken("The stream ended before the answer did.")
        stop_reason = self._ending.get("stop_reason")
        blocks = [self._blocks[index].build(stop_reason) for index in sorted(self._blocks)]
        return self._begun | {"content": blocks} | self._ending | {"usage": self._usage}
