"""The API over HTTP: the way from a route to the behaviour and back."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from claude_pipeline.sandbox.api import Api
from claude_pipeline.sandbox.bodies import read_body
from claude_pipeline.sandbox.clock import Clock
from claude_pipeline.sandbox.door import ERROR_HANDLERS, Visit, check_headers, json_response, visit
from claude_pipeline.sandbox.endpoints import BATCHES
from claude_pipeline.sandbox.faults import Fault, Faults, Operation
from claude_pipeline.sandbox.faults.performing import perform, send_events, send_results, upload
from claude_pipeline.sandbox.faults.spoiling import spoil_batch
from claude_pipeline.sandbox.limits import RateLimits
from claude_pipeline.sandbox.outcomes import Caller
from claude_pipeline.sandbox.pacing import Pace
from claude_pipeline.sandbox.responses import Late
from claude_pipeline.sandbox.spool import Body
from claude_pipeline.sandbox.stream import stream_events

LARGEST_BATCH: Final = 256_000_000
LARGEST_MESSAGE: Final = 32_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that has passed the door."""

    body: Body
    query: Mapping[str, str]
    path: Mapping[str, str]
    caller: Caller
    fault: Fault | None
    visit: Visit


Handle = Callable[[Call], Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The endpoints of the API; `lock` keeps the sandbox's other threads out of it meanwhile."""

    api: Api
    clock: Clock
    faults: Faults
    limits: RateLimits
    pace: Pace
    lock: AbstractContextManager[object]

    def routes(self) -> list[Route]:
        """List the endpoints."""
        return [*self._batch_routes(), *self._message_routes()]

    def _batch_routes(self) -> list[Route]:
        batch = f"{BATCHES}/{{batch_id}}"
        return [
            self._batch_route("POST", BATCHES, "create", self._create, limit=LARGEST_BATCH),
            self._batch_route("GET", BATCHES, "list", self._list),
            self._batch_route("GET", batch, "retrieve", self._retrieve),
            self._batch_route("DELETE", batch, "delete", self._delete),
            self._batch_route("POST", f"{batch}/cancel", "cancel", self._cancel),
            self._batch_route("GET", f"{batch}/results", "results", self._results),
        ]

    def _message_routes(self) -> list[Route]:
        return [
            self._route("POST", "/v1/messages", "messages", self._message),
            self._route("POST", "/v1/messages/count_tokens", "count_tokens", self._count_tokens),
            self._route("GET", "/v1/models", "models", self._list_models),
            self._route("GET", "/v1/models/{model_id}", "models", self._model),
        ]

    def _batch_route(
        self, method: str, path: str, operation: Operation, handle: Handle, *, limit: int = LARGEST_MESSAGE
    ) -> Route:
        def counted(call: Call) -> Response:
            self.limits.check_batch_call(now=call.caller.now)
            return handle(call)

        return self._route(method, path, operation, counted, limit=limit)

    def _route(
        self, method: str, path: str, operation: Operation, handle: Handle, *, limit: int = LARGEST_MESSAGE
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            version = check_headers(request.headers)
            fault = self.faults.take(operation)
            encoding = request.headers.get("content-encoding", "")
            body = await read_body(upload(request, fault), encoding=encoding, limit=limit)
            return perform(request, partial(self._do, handle, request, body, version, fault), fault=fault)

        return Route(path, endpoint, methods=[method])

    def _do(self, handle: Handle, request: Request, body: Body, version: str, fault: Fault | None) -> Response:
        here = visit(request)
        caller = Caller(
            workspace=here.workspace,
            version=version,
            base_url=f"http://{request.headers.get('host', 'localhost')}",
            now=self.clock.now(),
        )
        query, path = request.query_params, request.path_params
        with self.lock:
            return handle(Call(body=body, query=query, path=path, caller=caller, fault=fault, visit=here))

    def _create(self, call: Call) -> Response:
        batch = self.api.create(call.body, call.caller)
        call.visit.batch_id = batch.id
        return json_response(batch)

    def _retrieve(self, call: Call) -> Response:
        batch = self.api.retrieve(call.path["batch_id"], call.caller)
        return json_response(spoil_batch(batch, call.fault))

    def _list(self, call: Call) -> Response:
        shown = self.api.list_batches(call.query, call.caller)
        return json_response({**shown, "data": [spoil_batch(batch, call.fault) for batch in shown["data"]]})

    def _cancel(self, call: Call) -> Response:
        return json_response(self.api.cancel(call.path["batch_id"], call.caller))

    def _delete(self, call: Call) -> Response:
        return json_response(self.api.delete(call.path["batch_id"], call.caller))

    def _results(self, call: Call) -> Response:
        return send_results(self.api.results(call.path["batch_id"], call.caller), fault=call.fault)

    def _message(self, call: Call) -> Response:
        message, streamed = self.api.message(call.body, call.caller)
        headers = self.limits.headers(message.model, now=call.caller.now)
        if streamed:
            fault = self.faults.take("streams")
            return send_events(stream_events(message), pace=self.pace, fault=fault, headers=headers)
        response = json_response(message, headers=headers)
        if self.pace.is_instant:
            return response
        return Late(response, seconds=self.pace.seconds(message.usage.output_tokens))

    def _count_tokens(self, call: Call) -> Response:
        return json_response(self.api.count_tokens(call.body, call.caller))

    def _list_models(self, call: Call) -> Response:
        return json_response(self.api.list_models(call.query))

    def _model(self, call: Call) -> Response:
        return json_response(self.api.model(call.path["model_id"]))


def build_app(routes: list[Route]) -> Starlette:
    """Build the ASGI application: every path as it is written, every error in the API's shape."""
    app = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
    app.router.redirect_slashes = False
    return app
