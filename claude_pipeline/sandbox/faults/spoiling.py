"""What a fault makes of an answer: of a batch, of the lines of results, of the events of a stream."""

import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from claude_pipeline.sandbox.faults import Fault
from claude_pipeline.sandbox.wire import MessageBatch

GZIP: Final = 31
NOBODYS_ID: Final = "nobody_sent_this"
GARBAGE: Final = b"<html>502 Bad Gateway</html>\n"
NEW_EVENT: Final = b'event: novelty\ndata: {"type":"novelty","novelty":1}\n\n'
NEW_DELTA: Final = b'{"type":"content_block_delta","index":%d,"delta":{"type":"novel_delta","novelty":"x"}}'
INSIDE_A_CHARACTER: Final = re.compile(rb"(?<=[\xc2-\xf4])(?=[\x80-\xbf])")


class _Line(Struct):
    custom_id: str
    result: msgspec.Raw


def spoil_batch(batch: MessageBatch, fault: Fault | None) -> MessageBatch:
    """Show one succeeded request too many, or a path for a URL, once the batch has ended."""
    if fault is None or batch.results_url is None:
        return batch
    if fault.name == "wrong_counts":
        counts = replace(batch.request_counts, succeeded=batch.request_counts.succeeded + 1)
        return replace(batch, request_counts=counts)
    if fault.name == "relative_url":
        return replace(batch, results_url=f"/v1/messages/batches/{batch.id}/results")
    return batch


def spoil_results(chunks: Iterable[bytes], fault: Fault) -> Iterator[bytes]:
    """Spoil a line in the first chunk of a results file, or end there, or spoil all of it."""
    match fault.name:
        case "crlf":
            return (chunk.replace(b"\n", b"\r\n") for chunk in chunks)
        case "gzip":
            return _compress(chunks)
        case "slow":
            return iter(chunks)
        case name:
            return _spoil_first(_whole_lines(chunks), name)


def spoil_events(events: Iterable[bytes], fault: Fault) -> Iterator[bytes]:
    """Spoil the events of a stream, or end after some of them."""
    match fault.name:
        case "unknown_event":
            return _with_unknown(events)
        case "invalid_json":
            return _with_invalid_json(events)
        case "split_utf8":
            return (part for event in events for part in _split(event))
        case "error":
            return _then_error(events, fault)
        case _:
            return islice(events, fault.events)


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield rest + chunk[:end]
        rest = chunk[end:] if end else rest + chunk
    if rest:
        yield rest


def _spoil_first(chunks: Iterator[bytes], name: int | str) -> Iterator[bytes]:
    for chunk in islice(chunks, 1):
        lines = chunk.splitlines(keepends=True)
        middle = len(lines) // 2
        lines[middle:], goes_on = _spoil_line(lines[middle:], name)
        yield b"".join(lines)
        if not goes_on:
            return
    yield from chunks


def _spoil_line(lines: list[bytes], name: int | str) -> tuple[list[bytes], bool]:
    line, *others = lines
    match name:
        case "missing_line":
            return others, True
        case "duplicate_line":
            return [line, *lines], True
        case "unknown_line":
            return [_nobodys(line), *lines], True
        case "garbage_line":
            return [GARBAGE, *others], True
        case "cut_line":
            return [], False
        case _:
            return [line[: len(line) // 2]], False


def _nobodys(line: bytes) -> bytes:
    result = msgspec.json.decode(line, type=_Line)
    return msgspec.json.encode(_Line(NOBODYS_ID, result.result)) + b"\n"


def _compress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=GZIP)
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()


def _then_error(events: Iterable[bytes], fault: Fault) -> Iterator[bytes]:
    yield from islice(events, fault.events)
    error_type = fault.error_type or "overloaded_error"
    error = {"type": error_type, "message": fault.message or "Overloaded"}
    yield _event("error", {"type": "error", "error": error, "request_id": None})


def _with_unknown(events: Iterable[bytes]) -> Iterator[bytes]:
    for event in events:
        yield event
        if event.startswith(b"event: message_start"):
            yield NEW_EVENT
        if event.startswith(b"event: content_block_start"):
            yield b"event: content_block_delta\ndata: %s\n\n" % (NEW_DELTA % _data(event)["index"])


def _with_invalid_json(events: Iterable[bytes]) -> Iterator[bytes]:
    for event in events:
        if not event.startswith(b"event: content_block_delta") or b'"input_json_delta"' not in event:
            yield event
            continue
        data = _data(event)
        if data["delta"]["type"] == "input_json_delta":
            data["delta"]["partial_json"] = "}" + data["delta"]["partial_json"]
        yield _event("content_block_delta", data)


def _split(event: bytes) -> Iterator[bytes]:
    start = 0
    for match in INSIDE_A_CHARACTER.finditer(event):
        yield event[start : match.start()]
        start = match.start()
    yield event[start:]


def _data(event: bytes) -> Any:  # noqa: ANN401 - JSON
    return msgspec.json.decode(event.partition(b"\ndata: ")[2])


def _event(event_type: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event_type.encode(), msgspec.json.encode(data))
