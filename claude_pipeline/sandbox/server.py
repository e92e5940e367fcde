"""The API over HTTP: the way from a route to the behaviour and back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from claude_pipeline.sandbox.activity import Activity
from claude_pipeline.sandbox.api import Api, ReceivedRequest
from claude_pipeline.sandbox.bodies import read_body
from claude_pipeline.sandbox.clock import Clock
from claude_pipeline.sandbox.door import ERROR_HANDLERS, AccountHeaders, check_headers, json_response
from claude_pipeline.sandbox.errors import InvalidRequestError
from claude_pipeline.sandbox.faults import Fault, Faults, Operation, refusal, spoil
from claude_pipeline.sandbox.requests import decode
from claude_pipeline.sandbox.responses import Dropped, stream
from claude_pipeline.sandbox.stream import stream_events
from claude_pipeline.sandbox.wire import timestamp

LARGEST_BATCH: Final = 256_000_000
LARGEST_MESSAGE: Final = 32_000_000
BATCHES: Final = "/v1/messages/batches"
JSON_LINES: Final = "application/x-jsonl"
LINES_A_CHUNK: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that has passed the door."""

    body: bytearray
    version: str
    query: Mapping[str, str]
    path: Mapping[str, str]
    base_url: str
    now: float
    fault: Fault | None


Handle = Callable[[Call], Response]


class Server:
    """The endpoints of one sandbox; `lock` keeps its other threads out of the API meanwhile."""

    def __init__(self, *, api: Api, clock: Clock, faults: Faults, lock: Lock) -> None:
        self._api = api
        self._clock = clock
        self._faults = faults
        self._lock = lock

    def app(self, *, workspace: str, identity: str, activity: Activity) -> ASGIApp:
        """Build the ASGI application."""
        routes = [*self._batch_routes(), *self._message_routes(), *self._sandbox_routes(identity)]
        app = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
        app.router.redirect_slashes = False
        return AccountHeaders(app, workspace=workspace, activity=activity)

    def _batch_routes(self) -> list[Route]:
        batch = f"{BATCHES}/{{batch_id}}"
        return [
            self._route("POST", BATCHES, "create", self._create, limit=LARGEST_BATCH),
            self._route("GET", BATCHES, "list", self._list),
            self._route("GET", batch, "retrieve", self._retrieve),
            self._route("DELETE", batch, "delete", self._delete),
            self._route("POST", f"{batch}/cancel", "cancel", self._cancel),
            self._route("GET", f"{batch}/results", "results", self._results),
        ]

    def _message_routes(self) -> list[Route]:
        return [
            self._route("POST", "/v1/messages", "messages", self._message),
            self._route("POST", "/v1/messages/count_tokens", "count_tokens", self._count_tokens),
            self._route("GET", "/v1/models", "models", self._list_models),
            self._route("GET", "/v1/models/{model_id}", "models", self._model),
        ]

    def _sandbox_routes(self, identity: str) -> list[Route]:
        async def tell_identity(_request: Request) -> Response:
            return json_response({"identity": identity})

        return [
            Route("/_sandbox/identity", tell_identity),
            Route("/_sandbox/usage", self._usage),
            Route("/_sandbox/requests", self._requests),
            Route("/_sandbox/clock", self._advance_clock, methods=["POST"]),
        ]

    def _route(
        self, method: str, path: str, operation: Operation, handle: Handle, *, limit: int = LARGEST_MESSAGE
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            version = check_headers(request.headers)
            encoding = request.headers.get("content-encoding", "")
            body = await read_body(request.stream(), encoding=encoding, limit=limit)
            return self._answer(request, operation, handle, body=body, version=version)

        return Route(path, endpoint, methods=[method])

    def _answer(
        self, request: Request, operation: Operation, handle: Handle, *, body: bytearray, version: str
    ) -> Response:
        fault = self._faults.take(operation)
        if fault and (error := refusal(fault)):
            raise error
        if fault and fault.name == "drop_before":
            return Dropped()
        call = self._call(request, body=body, version=version, fault=fault)
        with self._lock:
            response = handle(call)
        return Dropped() if fault and fault.name == "drop_after" else response

    def _call(self, request: Request, *, body: bytearray, version: str, fault: Fault | None) -> Call:
        return Call(
            body=body,
            version=version,
            query=request.query_params,
            path=request.path_params,
            base_url=f"http://{request.headers.get('host', 'localhost')}",
            now=self._clock.now(),
            fault=fault,
        )

    def _create(self, call: Call) -> Response:
        batch = self._api.create(call.body, version=call.version, base_url=call.base_url, now=call.now)
        return json_response(batch)

    def _retrieve(self, call: Call) -> Response:
        return json_response(self._api.retrieve(call.path["batch_id"], base_url=call.base_url, now=call.now))

    def _list(self, call: Call) -> Response:
        return json_response(self._api.list_batches(call.query, base_url=call.base_url, now=call.now))

    def _cancel(self, call: Call) -> Response:
        return json_response(self._api.cancel(call.path["batch_id"], base_url=call.base_url, now=call.now))

    def _delete(self, call: Call) -> Response:
        return json_response(self._api.delete(call.path["batch_id"], now=call.now))

    def _results(self, call: Call) -> Response:
        chunks = self._api.results(call.path["batch_id"], now=call.now)
        if call.fault is None:
            return stream(chunks, media_type=JSON_LINES)
        spoiled = spoil(chunks, call.fault.name)
        return stream(spoiled, media_type=JSON_LINES, cut=call.fault.name == "cut")

    def _message(self, call: Call) -> Response:
        message, streamed = self._api.message(call.body, version=call.version)
        if streamed:
            return stream(stream_events(message), media_type="text/event-stream")
        return json_response(message)

    def _count_tokens(self, call: Call) -> Response:
        return json_response(self._api.count_tokens(call.body, version=call.version))

    def _list_models(self, call: Call) -> Response:
        return json_response(self._api.list_models(call.query))

    def _model(self, call: Call) -> Response:
        return json_response(self._api.model(call.path["model_id"]))

    async def _usage(self, _request: Request) -> Response:
        with self._lock:
            return json_response(self._api.usage(now=self._clock.now()))

    async def _requests(self, request: Request) -> Response:
        with self._lock:
            received = self._api.requests(request.query_params.get("batch_id"))
        return stream(_lines(received), media_type=JSON_LINES)

    async def _advance_clock(self, request: Request) -> Response:
        body = decode(bytearray(await request.body()))
        try:
            with self._lock:
                self._clock.advance(float(body["advance"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InvalidRequestError("advance: Input should be seconds to step forward") from None
        return json_response({"now": timestamp(self._clock.now())})


def _lines(received: Iterator[ReceivedRequest]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    while chunk := [*islice(received, LINES_A_CHUNK)]:
        yield encoder.encode_lines([_show(request) for request in chunk])


def _show(request: ReceivedRequest) -> dict[str, object]:
    return {
        "batch_id": request.batch_id,
        "custom_id": request.custom_id,
        "attempt": request.attempt,
        "params": msgspec.Raw(request.params),
    }
