"""Carrying out an operation as the fault that it meets wants it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from time import monotonic
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from claude_pipeline.sandbox.door import FAULT_MET, refuse
from claude_pipeline.sandbox.errors import TYPE_OF_STATUS, ApiError
from claude_pipeline.sandbox.faults import Fault
from claude_pipeline.sandbox.faults.spoiling import spoil_events, spoil_results
from claude_pipeline.sandbox.pacing import Pace
from claude_pipeline.sandbox.responses import (
    Dropped,
    Ending,
    Interrupted,
    Late,
    Silent,
    leaves,
    left,
    reset,
    slowly,
    stream,
    without_threads,
)

JSON_LINES: Final = "application/x-jsonl"
EVENTS: Final = "text/event-stream"
LOOK_SECONDS: Final = 0.02
TOO_MANY: Final = 429
SERVERS_FAULT: Final = 500
ENDINGS: Final[dict[int | str, Ending]] = {
    "cut": "cut",
    "cut_unframed": "cut",
    "cut_line": "cut",
    "reset": "reset",
    "stall": "stall",
}
UNFRAMED: Final = frozenset({"cut_unframed", "cut_line"})


class FaultError(ApiError):
    """The refusal that a fault asks for."""

    def __init__(self, fault: Fault, status: int) -> None:
        usual = TYPE_OF_STATUS.get(status, "api_error" if status >= SERVERS_FAULT else "invalid_request_error")
        super().__init__(
            fault.error_type or usual,
            fault.message or f"The sandbox was asked to answer with status {status}",
            status=status,
            retry_after=_retry_after(fault) if status == TOO_MANY else None,
        )
        self._error_code = fault.error_code

    def body(self, request_id: str) -> dict[str, object]:
        """Show the error as the API's JSON body."""
        body = super().body(request_id)
        if self._error_code is None:
            return body
        details = {"error_code": self._error_code}
        return {**body, "error": {"type": self.error_type, "message": self.message, "details": details}}


def upload(request: Request, fault: Fault | None) -> AsyncIterator[bytes]:
    """Note which fault a request meets, and receive its body: at once, slowly, or half of it."""
    request.scope[FAULT_MET] = fault and str(fault.name)
    match fault and fault.name:
        case "slow_upload" if fault:
            return _read_slowly(request, bytes_per_second=fault.bytes_per_second)
        case "reset_upload":
            return _read_half(request)
        case _:
            return request.stream()


def perform(request: Request, do: Callable[[], Response], *, fault: Fault | None) -> Response:
    """Do an operation, or not, and answer it, or not."""
    if fault is None:
        return do()
    if isinstance(fault.name, int):
        if fault.accepted:
            _answered(request, do)
        raise FaultError(fault, fault.name)
    match fault.name:
        case "drop_before":
            return Dropped()
        case "hang":
            return Silent()
        case "late":
            return Late(_answered(request, do), seconds=fault.seconds)
        case "drop_after" | "accept_late":
            return _dropped(request, do, after=fault)
    return do()


def send_results(lines: Iterable[bytes], *, fault: Fault | None) -> Response:
    """Send the lines of a results file, spoiled as the fault wants it."""
    if fault is None:
        return stream(lines, media_type=JSON_LINES)
    chunks = spoil_results(lines, fault)
    slow = fault.name == "slow"
    headers = {"content-type": JSON_LINES}
    if fault.name == "gzip":
        headers["content-encoding"] = "gzip"
    if fault.name in UNFRAMED:
        headers["connection"] = "close"
    return Interrupted(
        slowly(chunks, bytes_per_second=fault.bytes_per_second) if slow else without_threads(chunks),
        fault=str(fault.name),
        ending=ENDINGS.get(fault.name, "end"),
        framed=fault.name not in UNFRAMED,
        headers=headers,
    )


def send_events(events: Iterable[bytes], *, pace: Pace, fault: Fault | None, headers: Mapping[str, str]) -> Response:
    """Send the events of a message at their pace, spoiled as the fault wants it."""
    chunks = without_threads(spoil_events(events, fault) if fault else events)
    held = chunks if pace.is_instant else pace.hold(chunks)
    headers = {**headers, "content-type": EVENTS, "cache-control": "no-cache"}
    if fault is None:
        return StreamingResponse(held, headers=headers)
    return Interrupted(held, fault=str(fault.name), ending=ENDINGS.get(fault.name, "end"), headers=headers)


def _dropped(request: Request, do: Callable[[], Response], *, after: Fault) -> Response:
    if after.name == "drop_after":
        _answered(request, do)
    else:
        # A timer and no task: nobody waits for it when the sandbox stops.
        asyncio.get_running_loop().call_later(after.seconds, _answered, request, do)
    return Dropped()


def _retry_after(fault: Fault) -> int | None:
    if fault.retry_after is None and fault.error_code is None:
        return 1
    return fault.retry_after


def _answered(request: Request, do: Callable[[], Response]) -> Response:
    try:
        return do()
    except ApiError as error:
        return refuse(request, error)


async def _read_half(request: Request) -> AsyncIterator[bytes]:
    missing = int(request.headers.get("content-length", 0)) // 2
    async for chunk in request.stream():
        missing -= len(chunk)
        if missing <= 0:
            reset(request.scope["transport"])
            await left(request.receive)
            raise ClientDisconnect
        yield chunk


async def _read_slowly(request: Request, *, bytes_per_second: int) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        yield chunk
        gone = await _pause(request, len(chunk) / bytes_per_second, more=more)
        if gone:
            raise ClientDisconnect


async def _pause(request: Request, seconds: float, *, more: bool) -> bool:
    if not more:
        return await leaves(request.receive, within=seconds)
    # Asking for what is there would read on; so a client that goes is noticed once its bytes are read.
    transport, end = request.scope["transport"], monotonic() + seconds
    while (left_over := end - monotonic()) > 0 and not transport.is_closing():  # noqa: ASYNC110 - a transport has no event
        await asyncio.sleep(min(LOOK_SECONDS, left_over))
    return bool(transport.is_closing())
