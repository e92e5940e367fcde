"""Answers that are more than a whole JSON body: streamed, cut short, or none at all."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send


class Dropped(Response):
    """Close the connection without a byte of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Cut, then wait until the server has noticed."""
        scope["transport"].abort()
        while (await receive())["type"] != "http.disconnect":
            pass


class Cut(StreamingResponse):
    """Send the chunks, then close the connection where more was announced."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream as usual, with a cut in place of the end."""
        self.body_iterator = _then_cut(self.body_iterator, scope["transport"])
        await super().__call__(scope, receive, send)


def stream(chunks: Iterable[bytes], *, media_type: str, cut: bool = False) -> StreamingResponse:
    """Stream chunks without a thread; `cut` withholds the end."""
    kind = Cut if cut else StreamingResponse
    return kind(_without_threads(chunks), media_type=media_type)


async def _without_threads(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _then_cut(
    chunks: AsyncIterable[str | bytes | memoryview], transport: asyncio.Transport
) -> AsyncIterator[str | bytes | memoryview]:
    async for chunk in chunks:
        yield chunk
    transport.close()
    # The disconnect cancels this wait, so that the end is never sent.
    await asyncio.get_running_loop().create_future()
