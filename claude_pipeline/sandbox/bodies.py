"""Reading a request's body: whole, decoded, and no larger than allowed."""

import zlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from claude_pipeline.sandbox.errors import ApiError, InvalidRequestError
from claude_pipeline.sandbox.spool import Body, Spool

GZIP: Final = 31
Decode = Callable[[bytes, int], bytes]


async def read_body(chunks: AsyncIterator[bytes], *, encoding: str, limit: int) -> Body:
    """Gather a body of at most `limit` decoded bytes; a larger one is read to its end and refused."""
    decoder = _decoder(encoding)
    with Spool() as spool:
        async for chunk in chunks:
            if spool.size <= limit:
                spool.write(decoder.decode(chunk, limit + 1 - spool.size))
        if spool.size > limit:
            message = f"Request exceeds the maximum size of {limit} bytes"
            raise ApiError("request_too_large", message)
        decoder.check_end()
        return spool.body()


class _Identity:
    def decode(self, chunk: bytes, _room: int) -> bytes:
        return chunk

    def check_end(self) -> None:
        """Accept the end: HTTP has framed the body."""


class _Gzip:
    def __init__(self) -> None:
        self._decompress = zlib.decompressobj(GZIP)

    def decode(self, chunk: bytes, room: int) -> bytes:
        try:
            return self._decompress.decompress(chunk, room)
        except zlib.error as error:
            message = f"The request body is not valid gzip: {error}"
            raise InvalidRequestError(message) from None

    def check_end(self) -> None:
        if not self._decompress.eof:
            raise InvalidRequestError("The request body is not valid gzip: it ends too early")


def _decoder(encoding: str) -> _Identity | _Gzip:
    match encoding.strip().lower():
        case "" | "identity":
            return _Identity()
        case "gzip" | "x-gzip":
            return _Gzip()
        case other:
            raise InvalidRequestError(f"content-encoding: {other} is not supported; send gzip or none")
