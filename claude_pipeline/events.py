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
        self._rest: list[bytes] = []
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of each event that a piece completes; comments and events without data say nothing."""
        *lines, rest = chunk.split(b"\n")
        if lines and self._rest:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest.clear()
        self._rest.append(rest)
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif self._data and not line.rstrip(b"\r"):
                yield b"\n".join(self._data)
                self._data.clear()
