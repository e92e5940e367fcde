"""A message as server-sent events."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from claude_pipeline.sandbox.wire import Message

CHARACTERS_A_DELTA: Final = 16


def stream_events(message: Message) -> Iterator[bytes]:
    """Yield the events that the API sends for a message of one text block."""
    text = message.content[0].text
    begun = msgspec.structs.replace(
        message,
        content=(),
        stop_reason=None,
        stop_sequence=None,
        usage=msgspec.structs.replace(message.usage, output_tokens=1),
    )
    yield _event("message_start", message=begun)
    block = {"type": "text", "text": "", "citations": None}
    yield _event("content_block_start", index=0, content_block=block)
    yield _event("ping")
    for start in range(0, len(text), CHARACTERS_A_DELTA):
        delta = {"type": "text_delta", "text": text[start : start + CHARACTERS_A_DELTA]}
        yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    yield _event("message_delta", delta=_ending(message), usage=_usage(message))
    yield _event("message_stop")


def _ending(message: Message) -> dict[str, str | None]:
    return {
        "stop_reason": message.stop_reason,
        "stop_sequence": message.stop_sequence,
        "stop_details": None,
        "container": None,
    }


def _usage(message: Message) -> dict[str, int | None]:
    return {
        "input_tokens": message.usage.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": message.usage.output_tokens,
        "output_tokens_details": None,
        "server_tool_use": None,
    }


def _event(event_type: str, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
    data = msgspec.json.encode({"type": event_type, **fields})
    return b"event: %s\ndata: %s\n\n" % (event_type.encode(), data)
