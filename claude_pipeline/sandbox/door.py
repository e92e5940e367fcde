"""What every request and every response passes: credentials, version, account, errors in one shape."""

from secrets import token_hex
from typing import Any, Final

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from claude_pipeline.sandbox.activity import Activity
from claude_pipeline.sandbox.errors import TYPE_OF_STATUS, ApiError, FolderError, InvalidRequestError
from claude_pipeline.sandbox.params import VERSIONS

ORGANIZATION: Final = "sandbox-organization"
REQUEST_ID: Final = "sandbox.request_id"


class AccountHeaders:
    """Say on every response which request it answers, and for whom."""

    def __init__(self, app: ASGIApp, *, workspace: str, activity: Activity) -> None:
        self._app = app
        self._activity = activity
        self._workspace = workspace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the account's headers."""
        scope[REQUEST_ID] = f"req_01{token_hex(11)}"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["request-id"] = scope[REQUEST_ID]
                headers["anthropic-organization-id"] = ORGANIZATION
                headers["anthropic-workspace-id"] = self._workspace
            await send(message)

        with self._activity.request():
            await self._app(scope, receive, send_with_headers)


def check_headers(headers: Headers) -> str:
    """Return the API version, or raise an `ApiError`; any key will do, and none is kept."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not headers.get("x-api-key") and not (scheme.lower() == "bearer" and token.strip()):
        raise ApiError("authentication_error", "x-api-key or authorization header is required")
    if "anthropic-version" not in headers:
        raise InvalidRequestError("anthropic-version: header is required")
    if headers["anthropic-version"] not in VERSIONS:
        message = f"anthropic-version: {headers['anthropic-version']!r} is not one of {', '.join(VERSIONS)}"
        raise InvalidRequestError(message)
    return headers["anthropic-version"]


def json_response(content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON."""
    body = msgspec.json.encode(content)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def refuse(request: Request, error: ApiError) -> Response:
    """Answer with an error in the API's shape."""
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return json_response(error.body(request.scope[REQUEST_ID]), status=error.status, headers=headers)


def _refuse_route(request: Request, error: HTTPException) -> Response:
    error_type = TYPE_OF_STATUS.get(error.status_code, "invalid_request_error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    response = refuse(request, ApiError(error_type, message, status=error.status_code))
    response.headers.update(error.headers or {})
    return response


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
