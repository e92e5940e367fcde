"""What the sandbox tells of itself, and takes orders by, under `/_sandbox`."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from claude_pipeline.sandbox.api import ReceivedRequest
from claude_pipeline.sandbox.bodies import read_body
from claude_pipeline.sandbox.clock import Clock
from claude_pipeline.sandbox.door import json_response
from claude_pipeline.sandbox.errors import InvalidRequestError
from claude_pipeline.sandbox.faults import FaultsError, Plan
from claude_pipeline.sandbox.faults.performing import JSON_LINES
from claude_pipeline.sandbox.faults.plans import parse_plan
from claude_pipeline.sandbox.log import Log
from claude_pipeline.sandbox.openapi import document
from claude_pipeline.sandbox.requests import decode
from claude_pipeline.sandbox.responses import stream
from claude_pipeline.sandbox.server import Server
from claude_pipeline.sandbox.spool import Body
from claude_pipeline.sandbox.wire import timestamp

Answer = Callable[[Request], Awaitable[Response]]

LARGEST_ORDER: Final = 1_000_000
LINES_A_CHUNK: Final = 1_000


class ClockOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with the clock: set it, then step it forward by seconds, then let it run at a speed."""

    set: datetime | UnsetType = UNSET
    advance: float | UnsetType = UNSET
    speed: float | UnsetType = UNSET

    def carry_out(self, clock: Clock) -> None:
        """Change the clock; a `ValueError` says what cannot be."""
        if self == ClockOrder():
            raise ValueError("Say what to do with it: set, advance or speed.")
        if self.set is not UNSET:
            clock.set(self.set.timestamp())
        if self.advance is not UNSET:
            clock.advance(self.advance)
        if self.speed is not UNSET:
            clock.speed_up(self.speed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The endpoints beside the API's."""

    server: Server
    log: Log
    identity: str

    def routes(self) -> list[Route]:
        """List the endpoints."""
        return [
            _route("/_sandbox/identity", self._identify),
            _route("/_sandbox/openapi.json", self._describe),
            _route("/_sandbox/usage", self._usage),
            _route("/_sandbox/requests", self._requests, query=("batch_id",)),
            _route("/_sandbox/log", self._log),
            _route("/_sandbox/clock", self._clock, methods=("GET", "POST")),
            _route("/_sandbox/faults", self._faults, methods=("GET", "POST", "DELETE")),
        ]

    async def _identify(self, _request: Request) -> Response:
        return json_response({"identity": self.identity})

    async def _describe(self, _request: Request) -> Response:
        return json_response(document())

    async def _usage(self, _request: Request) -> Response:
        with self.server.lock:
            return json_response(self.server.api.usage(now=self.server.clock.now()))

    async def _requests(self, request: Request) -> Response:
        with self.server.lock:
            received = self.server.api.requests(request.query_params.get("batch_id"))
        return stream(_lines(map(_show, received)), media_type=JSON_LINES)

    async def _log(self, _request: Request) -> Response:
        return stream(_lines(self.log.entries()), media_type=JSON_LINES)

    async def _clock(self, request: Request) -> Response:
        if request.method == "POST":
            body = decode(await _read(request))
            try:
                with self.server.lock:
                    msgspec.convert(body, ClockOrder).carry_out(self.server.clock)
            except ValueError as error:
                raise InvalidRequestError(f"clock: {error}") from None
        return json_response({"now": timestamp(self.server.clock.now())})

    async def _faults(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.server.faults.replace(Plan())
        if request.method == "POST":
            try:
                self.server.faults.replace(parse_plan(decode(await _read(request))))
            except FaultsError as error:
                raise InvalidRequestError(str(error)) from error
        return json_response(self.server.faults.show())


def _route(path: str, answer: Answer, *, methods: Sequence[str] = ("GET",), query: Collection[str] = ()) -> Route:
    """Refuse what else is asked for: an unknown filter that is ignored would look like a filter that found all."""

    async def endpoint(request: Request) -> Response:
        for key in request.query_params:
            if key not in query:
                raise InvalidRequestError(f"{key}: {path} takes {' and '.join(query) or 'nothing'} in its query")
        return await answer(request)

    return Route(path, endpoint, methods=[*methods])


async def _read(request: Request) -> Body:
    encoding = request.headers.get("content-encoding", "")
    return await read_body(request.stream(), encoding=encoding, limit=LARGEST_ORDER)


def _lines(items: Iterable[object]) -> Iterator[bytes]:
    encoder, rest = msgspec.json.Encoder(), iter(items)
    while chunk := [*islice(rest, LINES_A_CHUNK)]:
        yield encoder.encode_lines(chunk)


def _show(request: ReceivedRequest) -> dict[str, object]:
    return {
        "batch_id": request.batch_id,
        "custom_id": request.custom_id,
        "attempt": request.attempt,
        "params": msgspec.Raw(request.params),
    }
