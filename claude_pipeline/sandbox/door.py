"""What every request and every response passes: credentials, version, account, errors in one shape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from hashlib import blake2b
from http import HTTPStatus
from secrets import token_hex
from time import monotonic
from typing import Any, Final

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from claude_pipeline.sandbox.activity import Activity
from claude_pipeline.sandbox.clock import Clock
from claude_pipeline.sandbox.errors import TYPE_OF_STATUS, ApiError, FolderError, InvalidRequestError
from claude_pipeline.sandbox.log import Entry, Log
from claude_pipeline.sandbox.params import VERSIONS
from claude_pipeline.sandbox.wire import timestamp

CONTROL: Final = "/_sandbox/"
FAULT_MET: Final = "sandbox.fault"
ORGANIZATION: Final = "sandbox-organization"
VISIT: Final = "sandbox.visit"


@dataclass(slots=True, kw_only=True)
class Visit:
    """A request on its way through; what is learned on the way ends up in the log."""

    request_id: str
    workspace: str
    status: int | None = None
    received_bytes: int = 0
    batch_id: str | None = None
    is_noted: bool = False


class Door:
    """Say on every response which request it answers, and for whom; log it."""

    def __init__(self, app: ASGIApp, *, workspace: str | None, activity: Activity, clock: Clock, log: Log) -> None:
        self._app = app
        self._activity = activity
        self._workspace = workspace
        self._clock = clock
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the account's headers."""
        workspace = self._workspace or _workspace_of_key(Headers(scope=scope))
        here = scope[VISIT] = Visit(request_id=f"req_01{token_hex(11)}", workspace=workspace)
        note = partial(self._note, scope, here, at=self._clock.now(), begin=monotonic())

        async def receive_counted() -> Message:
            message = await receive()
            here.received_bytes += len(message.get("body", b""))
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                here.status = message["status"]
                date = formatdate(self._clock.now(), usegmt=True)
                MutableHeaders(scope=message).update({"date": date, **_account_headers(here)})
            elif not message.get("more_body"):
                # Before its last byte: who has an answer finds it in the log.
                note()
            await send(message)

        with self._activity.request():
            try:
                await self._app(scope, receive_counted, send_with_headers)
            finally:
                note()

    def _note(self, scope: Scope, here: Visit, *, at: float, begin: float) -> None:
        if here.is_noted or scope["path"].startswith(CONTROL):
            return
        here.is_noted = True
        entry = Entry(
            at=timestamp(at),
            method=scope["method"],
            path=scope["path"],
            status=here.status,
            batch_id=here.batch_id or scope.get("path_params", {}).get("batch_id"),
            workspace=here.workspace,
            request_id=here.request_id,
            received_bytes=here.received_bytes,
            seconds=monotonic() - begin,
            fault=scope.get(FAULT_MET),
        )
        self._log.add(entry)


def visit(request: Request) -> Visit:
    """Return what is known of a request."""
    here: Visit = request.scope[VISIT]
    return here


def _account_headers(here: Visit) -> dict[str, str]:
    return {
        "request-id": here.request_id,
        "anthropic-organization-id": ORGANIZATION,
        "anthropic-workspace-id": here.workspace,
    }


def _key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")


def _workspace_of_key(headers: Headers) -> str:
    return f"wrkspc_01{blake2b(_key(headers).encode(), digest_size=11).hexdigest()}"


def check_headers(headers: Headers) -> str:
    """Return the API version, or raise an `ApiError`; any key will do, and none is kept."""
    if not _key(headers):
        raise ApiError("authentication_error", "x-api-key or authorization header is required")
    if "anthropic-version" not in headers:
        raise InvalidRequestError("anthropic-version: header is required")
    if headers["anthropic-version"] not in VERSIONS:
        message = f"anthropic-version: {headers['anthropic-version']!r} is not one of {', '.join(VERSIONS)}"
        raise InvalidRequestError(message)
    return headers["anthropic-version"]


def json_response(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    body = msgspec.json.encode(content)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def refuse(request: Request, error: ApiError) -> Response:
    """Answer with an error in the API's shape."""
    return json_response(error.body(visit(request).request_id), status=error.status, headers=error.headers)


def _refuse_route(request: Request, error: HTTPException) -> Response:
    error_type = TYPE_OF_STATUS.get(error.status_code, "invalid_request_error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    response = refuse(request, ApiError(error_type, message, status=error.status_code))
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette names the methods of the first route with this path only.
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> Iterator[str]:
    """Yield the methods of the path."""
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            yield from route.methods


def _refuse_crash(request: Request, _error: Exception) -> Response:
    return refuse(request, ApiError("api_error", "Internal server error"))


def _refuse_unkept(request: Request, error: FolderError) -> Response:
    return refuse(request, ApiError("api_error", str(error)))


def _nobody_listens(_request: Request, _error: ClientDisconnect) -> Response:
    return Response()


ERROR_HANDLERS: Final[dict[Any, Any]] = {
    ApiError: refuse,
    HTTPException: _refuse_route,
    FolderError: _refuse_unkept,
    ClientDisconnect: _nobody_listens,
    Exception: _refuse_crash,
}
