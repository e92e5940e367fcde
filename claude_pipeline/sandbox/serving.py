"""uvicorn's HTTP on an event loop of our own, which leaves signals alone and stops at once."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

BACKLOG: Final = 512
IDLE_SECONDS: Final = 600
STOPPING_SECONDS: Final = 0.001


class Protocol(HttpToolsProtocol):
    """HTTP that answers without delay and lets the application cut its connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own type
        """Begin a connection."""
        # asyncio does this only where the listening socket names its protocol; without it an answer
        # of headers and body waits 40 ms for the client's delayed acknowledgment.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["transport"] = self.transport  # type: ignore[typeddict-unknown-key] # ours, beside ASGI's


async def serve(app: ASGIApp, listener: socket.socket, ready: Future[Callable[[], Any]]) -> None:
    """Serve until the function given to `ready` is called."""
    loop, stopping, state = asyncio.get_running_loop(), asyncio.Event(), ServerState()
    config = _config(app)
    connect = partial(Protocol, config=config, server_state=state, app_state={})
    server = await loop.create_server(connect, sock=listener, backlog=BACKLOG)
    ready.set_result(partial(loop.call_soon_threadsafe, stopping.set))
    await stopping.wait()
    # Closing while a connection is being accepted, which is a task, would leak that connection.
    await _abort_while(lambda: len(asyncio.all_tasks()) > 1, state)
    server.close()
    await _abort_while(lambda: bool(state.connections), state)


async def _abort_while(busy: Callable[[], bool], state: ServerState) -> None:
    while busy():
        for connection in [*state.connections]:
            connection.transport.abort()
        await asyncio.sleep(STOPPING_SECONDS)


def _config(app: ASGIApp) -> Config:
    config = Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=IDLE_SECONDS,
    )
    config.load()
    return config
