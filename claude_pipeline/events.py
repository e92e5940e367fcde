"""A streamed message from its bytes: server-sent events, and what each says.

The SDK's helper builds every event, and parses the whole input of a tool again at each piece of it; this reads each
byte once.
"""

from collections.abc import Iterator

import msgspec
from msgspec import Raw


class Delta(msgspec.Struct, gc=False):
    """A piece of a block; of the fields one is filled, or none if it is of a kind that is not known yet."""

    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    citation: Raw = Raw()


class Event(msgspec.Struct, gc=False):
    """An event, as far as a message is made of it."""

    type: str
    index: int = 0
    delta: Delta | None = None
    message: Raw = Raw()
    content_block: Raw = Raw()
    error: Raw = Raw()


decode_event = msgspec.json.Decoder(Event).decode


class EventReader:
    """Cuts a stream into events, wherever its pieces begin and end."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of each event that a piece completes; comments and events without data say nothing."""
        # In JSON a carriage return is written as an escape, so that one which stands there ends a line.
        *events, self._rest = (self._rest + chunk.replace(b"\r", b"")).split(b"\n\n")
        for event in events:
            at = 0 if event.startswith(b"data:") else event.find(b"\ndata:") + 1 or None
            if at is not None:
                data = event[at + 5 :]
                yield data if b"\n" not in data else _lines_of(event)


def _lines_of(event: bytes) -> bytes:
    """Join the data of an event that has several lines after its first one with data."""
    return b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
