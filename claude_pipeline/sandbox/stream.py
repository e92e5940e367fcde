"""A message as server-sent events."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from claude_pipeline.sandbox.blocks import Block, TextBlock, ThinkingBlock, ToolUseBlock
from claude_pipeline.sandbox.wire import Message

CHARACTERS_A_DELTA: Final = 16
CLOSERS: Final = "]}"


def stream_events(message: Message) -> Iterator[bytes]:
    """Yield the events that the API sends for a message, one by one."""
    yield _event("message_start", message=_begun(message))
    last = len(message.content) - 1
    for index, block in enumerate(message.content):
        begun, deltas = _parts(index, block, cut=index == last and message.stop_reason == "max_tokens")
        yield _event("content_block_start", index=index, content_block=begun)
        if index == 0:
            yield _event("ping")
        yield from deltas
        yield _event("content_block_stop", index=index)
    yield _event("message_delta", delta=_ending(message), usage=_usage(message))
    yield _event("message_stop")


def _begun(message: Message) -> Message:
    usage = replace(message.usage, output_tokens=1, output_tokens_details=None)
    return replace(message, content=(), stop_reason=None, stop_sequence=None, stop_details=None, usage=usage)


def _parts(index: int, block: Block, *, cut: bool) -> tuple[Block, Iterable[bytes]]:
    match block:
        case TextBlock(text=text, citations=citations):
            return replace(block, text="", citations=None if citations is None else []), _text(index, text, citations)
        case ThinkingBlock(thinking=thinking, signature=signature):
            return replace(block, thinking="", signature=""), _thoughts(index, thinking, signature)
        case ToolUseBlock():
            return replace(block, input={}), _tool_input(index, block.input, cut=cut)
        case _:
            return block, ()


def _text(index: int, text: str, citations: Iterable[object] | None) -> Iterator[bytes]:
    for citation in citations or ():
        yield from _deltas(index, "citations_delta", "citation", [citation])
    yield from _deltas(index, "text_delta", "text", _pieces(text))


def _thoughts(index: int, thinking: str, signature: str) -> Iterator[bytes]:
    yield from _deltas(index, "thinking_delta", "thinking", _pieces(thinking))
    if signature:
        yield from _deltas(index, "signature_delta", "signature", [signature])


def _tool_input(index: int, value: dict[str, Any], *, cut: bool) -> Iterator[bytes]:
    text = msgspec.json.encode(value).decode()
    # What comes after the last complete value is lost to whoever parses it, as it is in the message.
    text = _opened(text) if cut else text
    yield from _deltas(index, "input_json_delta", "partial_json", ["", *_pieces(text)])


def _opened(text: str) -> str:
    left = text.rstrip(CLOSERS)
    return f'{left}"' if left[-1] in "{[" else f'{left},"'


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + CHARACTERS_A_DELTA] for start in range(0, len(text), CHARACTERS_A_DELTA))


def _deltas(index: int, delta_type: str, key: str, values: Iterable[object]) -> Iterator[bytes]:
    # A stream is mostly these: all but the value is written once.
    head = _HEAD % (index, delta_type.encode(), key.encode())
    encode = msgspec.json.Encoder().encode
    for value in values:
        yield head + encode(value) + b"}}\n\n"


_HEAD: Final = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'


def _ending(message: Message) -> dict[str, object]:
    return {
        "stop_reason": message.stop_reason,
        "stop_sequence": message.stop_sequence,
        "stop_details": message.stop_details,
        "container": None,
    }


def _usage(message: Message) -> dict[str, object]:
    return {
        "input_tokens": message.usage.input_tokens,
        "cache_creation_input_tokens": message.usage.cache_creation_input_tokens,
        "cache_read_input_tokens": message.usage.cache_read_input_tokens,
        "output_tokens": message.usage.output_tokens,
        "output_tokens_details": message.usage.output_tokens_details,
        "server_tool_use": None,
    }


def _event(event_type: str, **fields: Any) -> bytes:  # noqa: ANN401 - JSON
    data = msgspec.json.encode({"type": event_type, **fields})
    return b"event: %b\ndata: %b\n\n" % (event_type.encode(), data)
