"""The edge to the streaming Messages API: a request goes out, and its answer's bytes come in as they are said."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from claude_pipeline.errors import ApiError
from claude_pipeline.transport import Transport, body_options

if TYPE_CHECKING:
    import httpx2

PATH = "/v1/messages"
_CONNECT_SECONDS, _WRITE_SECONDS = 15.0, 60.0


class LiveBody:
    """An answer while it is said."""

    def __init__(self, response: "httpx2.Response") -> None:
        self.headers: Mapping[str, str] = response.headers
        self.chunks: Iterator[bytes] = response.iter_bytes()
        self._response = response

    def hang_up(self) -> None:
        """Wake up whoever reads, from another thread: nothing more will come."""
        stream = self._response.extensions.get("network_stream")
        raw = stream.get_extra_info("socket") if stream else None
        if isinstance(raw, socket.socket):
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(raw, socket.SHUT_RDWR)  # TLS would want to say goodbye


class MessagesApi(Transport):
    """The calls of a streaming run, each made once."""

    @contextmanager
    def stream(self, params: bytes, *, betas: Sequence[str], idle_timeout: float) -> Iterator[LiveBody]:
        """Ask, and open the answer. `params` are those of a batch's request, to which `stream` is added.

        Raises:
            ApiError: The API refuses or cannot be reached, the connection breaks, or nothing comes, pings included,
                for `idle_timeout` seconds.
        """
        import httpx2  # noqa: PLC0415  loaded with the client

        content = b'{"stream":true,' + params[1:]
        timeout = httpx2.Timeout(connect=_CONNECT_SECONDS, read=idle_timeout, write=_WRITE_SECONDS, pool=None)
        options = body_options(len(content), betas) | {"timeout": timeout}
        response = self._call("post", PATH, name="messages.create", content=[content], stream=True, **options)
        try:
            yield LiveBody(response)
        except ApiError as error:  # an error in the stream, which a gateway may have put the key into
            error.args = (self._masked(str(error)),)
            raise
        except httpx2.TimeoutException as error:
            message = f"Nothing came from the API for {idle_timeout:g} seconds."
            raise ApiError(message, error_type="timeout_error") from error
        except httpx2.HTTPError as error:
            raise ApiError(f"The answer broke off ({type(error).__name__}: {error}).") from error
        finally:
            response.close()
