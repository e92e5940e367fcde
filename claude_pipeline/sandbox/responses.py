"""Answers that are more than a whole JSON body: streamed, late, cut short, or none at all."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from math import inf
from typing import Any, Final, Literal

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from claude_pipeline.sandbox.door import FAULT_MET

Ending = Literal["end", "cut", "reset", "stall"]
LINGER_NOT_AT_ALL: Final = struct.pack("ii", 1, 0)
PIECES_A_SECOND: Final = 20


class Dropped(Response):
    """Close the connection without a byte of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Cut, then wait until the server has noticed."""
        scope["transport"].abort()
        await left(receive)


class Silent(Response):
    """Answer nothing until the client goes away."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Wait for the client to go away."""
        await left(receive)


class Late(Response):
    """Answer after some seconds, if the client is still there."""

    def __init__(self, response: ASGIApp, *, seconds: float) -> None:
        self._response, self._seconds = response, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, then answer."""
        if not await leaves(receive, within=self._seconds):
            await self._response(scope, receive, send)


class Interrupted(StreamingResponse):
    """Send the chunks, then end as announced, or close, reset or keep silent where more was announced.

    Without a frame nothing was announced: then the end of the connection is the end of the body.
    """

    def __init__(
        self,
        chunks: AsyncIterable[bytes],
        *,
        fault: str,
        ending: Ending = "end",
        framed: bool = True,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(chunks, headers=headers)
        self._fault, self._ending, self._framed = fault, ending, framed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream as usual, with something else in place of the end."""
        scope[FAULT_MET], transport = self._fault, scope["transport"]
        if not self._framed:
            _unframe(transport)
        if self._ending != "end":
            self.body_iterator = _then(self.body_iterator, self._ending, transport)
        await super().__call__(scope, receive, send)


def stream(chunks: Iterable[bytes], *, media_type: str) -> StreamingResponse:
    """Stream chunks without a thread."""
    return StreamingResponse(without_threads(chunks), media_type=media_type)


async def without_threads(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks on the event loop."""
    for chunk in chunks:
        yield chunk


async def slowly(chunks: Iterable[bytes], *, bytes_per_second: int) -> AsyncIterator[bytes]:
    """Yield chunks in small pieces, with a pause after each."""
    size = max(1, bytes_per_second // PIECES_A_SECOND)
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            yield piece
            await asyncio.sleep(len(piece) / bytes_per_second)


async def left(receive: Receive) -> None:
    """Wait until the client has gone away, or the connection is closed from here."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def leaves(receive: Receive, *, within: float) -> bool:
    """Wait some seconds and say whether the client has gone away meanwhile."""
    try:
        async with asyncio.timeout(within):
            await left(receive)
    except TimeoutError:
        return False
    return True


def reset(transport: asyncio.Transport) -> None:
    """Close the connection so that the client is told of a reset, not of an end."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT_AT_ALL)
    transport.abort()


async def _then(
    chunks: AsyncIterable[str | bytes | memoryview], ending: Ending, transport: asyncio.Transport
) -> AsyncIterator[str | bytes | memoryview]:
    async for chunk in chunks:
        yield chunk
    if ending == "cut":
        transport.close()
    elif ending == "reset":
        reset(transport)
    # The disconnect cancels this wait, so that the end is never sent.
    await asyncio.get_running_loop().create_future()


def _unframe(transport: asyncio.Transport) -> None:
    # uvicorn frames every answer by itself, unless it believes that a content-length is kept.
    protocol: Any = transport.get_protocol()
    protocol.cycle.chunked_encoding, protocol.cycle.expected_content_length = False, inf
