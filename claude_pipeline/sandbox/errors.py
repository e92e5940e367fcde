"""What the sandbox answers when it refuses, and what it raises when it cannot listen."""

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
ANOTHER_PORT: Final = "Choose another port, or let the system choose a free one with --port 0."
WAYS_OUT: Final[Mapping[int | None, str]] = {
    errno.EADDRINUSE: ANOTHER_PORT,
    errno.EACCES: ANOTHER_PORT,
    errno.EADDRNOTAVAIL: "Choose an address of this machine, such as --host 127.0.0.1.",
}
TYPE_OF_STATUS: Final = {status: error_type for error_type, status in STATUS.items()}


class ApiError(Exception):
    """An answer in the API's error shape; `retry_after` in seconds becomes one of its headers."""

    def __init__(
        self,
        error_type: str,
        message: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.status = status or STATUS.get(error_type, 500)
        self.headers = {**headers, **({} if retry_after is None else {"retry-after": str(retry_after)})}

    def body(self, request_id: str) -> dict[str, object]:
        """Show the error as the API's JSON body."""
        return error_body(self.error_type, self.message, request_id=request_id)


class InvalidRequestError(ApiError):
    """The request is wrong and would be wrong again."""

    def __init__(self, message: str) -> None:
        super().__init__("invalid_request_error", message)


class NotFoundError(ApiError):
    """There is no such thing, or no longer."""

    def __init__(self, message: str) -> None:
        super().__init__("not_found_error", message)


class DataError(OSError):
    """The folder of a sandbox cannot be used."""


class FolderError(DataError):
    """The folder cannot be written."""

    def __init__(self, folder: Path, *, reason: OSError) -> None:
        what, way_out = reason.strerror or reason, "Free some room or make it writable, or choose another folder."
        if isinstance(reason, FileExistsError):
            what, way_out = f"{reason.filename} is a file", "Choose a folder."
        super().__init__(f"The sandbox cannot keep its data in {folder}: {what}. {way_out}")


class InUseError(DataError):
    """The folder is another sandbox's."""

    def __init__(self, folder: Path, *, pid: int | None) -> None:
        process = "" if pid is None else f" (process {pid})"
        super().__init__(f"Another sandbox{process} keeps its data in {folder}. Stop it, or choose another folder.")


class UnreadableError(DataError):
    """A file is not what a sandbox has written."""

    def __init__(self, path: Path, *, reason: Exception) -> None:
        super().__init__(f"The sandbox cannot read {path}: {reason}. Move it away to go on without it.")


class SharedSandboxError(DataError):
    """The one sandbox of a folder does not start, or does not answer."""

    def __init__(self, folder: Path, *, reason: str) -> None:
        super().__init__(f"The sandbox of {folder} does not start: {reason} Its log is {folder / 'log'}.")


class ListenError(OSError):
    """The address cannot be listened on."""

    def __init__(self, host: str, port: int, *, reason: OSError | ValueError) -> None:
        if isinstance(reason, socket.gaierror | ValueError):
            super().__init__(errno.EADDRNOTAVAIL, "there is no such host")
        else:
            super().__init__(reason.errno, os.strerror(reason.errno) if reason.errno else str(reason))
        self.host = host
        self.port = port

    def __str__(self) -> str:
        """Name the address, what is wrong with it, and the way out."""
        text = f"The sandbox cannot listen on {self.host}:{self.port}: {self.strerror}."
        return f"{text} {WAYS_OUT[self.errno]}" if self.errno in WAYS_OUT else text


def error_body(error_type: str, message: str, *, request_id: str) -> dict[str, object]:
    """Build the API's error body."""
    return {"type": "error", "error": {"type": error_type, "message": message}, "request_id": request_id}
