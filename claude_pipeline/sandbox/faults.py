"""Faults that a test orders for coming operations."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from threading import Lock
from typing import Final, Literal, get_args

from claude_pipeline.sandbox.errors import TYPE_OF_STATUS, ApiError

Operation = Literal["create", "retrieve", "list", "cancel", "delete", "results", "messages", "count_tokens", "models"]
LineFault = Literal["missing_line", "duplicate_line", "garbage_line", "cut"]
FaultName = Literal["drop_before", "drop_after"] | LineFault
OPERATIONS: Final = get_args(Operation)
LINE_FAULTS: Final = get_args(LineFault)
NAMES: Final = ("drop_before", "drop_after", *LINE_FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault for `times` operations, once `after` of them have passed.

    Attributes:
        name: `drop_before` cuts the connection and does nothing; `drop_after` does it, but the answer is lost;
            of the results, `missing_line` leaves one out, `duplicate_line` sends one twice, `garbage_line`
            puts something else in one's place, `cut` ends in the middle of one; a number is the status of a
            refusal.
        retry_after: Seconds, sent with status 429.
    """

    operation: Operation
    name: FaultName | int
    times: int
    after: int
    retry_after: int

    def __post_init__(self) -> None:
        """Refuse a fault that could never happen."""
        if self.operation not in OPERATIONS:
            raise ValueError(_choices("operation", self.operation, OPERATIONS))
        if isinstance(self.name, int):
            if not 400 <= self.name <= 599:  # noqa: PLR2004 - where errors begin and end in HTTP
                raise ValueError(_choices("status", self.name, ["from 400 to 599"]))
        elif self.name not in NAMES:
            raise ValueError(_choices("fault", self.name, NAMES))
        elif self.name in LINE_FAULTS and self.operation != "results":
            raise ValueError(_choices(f"operation for {self.name}", self.operation, ["results"]))


class Faults:
    """The faults still to come; each operation asks here once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Order a fault, behind those ordered before."""
        with self._lock:
            self._faults.append(fault)

    def take(self, operation: Operation) -> Fault | None:
        """Count an operation and return the fault that it meets."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.operation == operation:
                    self._faults[index : index + 1] = _rest(fault)
                    return None if fault.after else fault
        return None


def refusal(fault: Fault) -> ApiError | None:
    """Turn the fault into the error that it answers with, if it is one."""
    if not isinstance(fault.name, int):
        return None
    too_many = fault.name == 429  # noqa: PLR2004 - the one status that says when to come back
    return ApiError(
        TYPE_OF_STATUS.get(fault.name, "api_error"),
        f"The sandbox was asked to answer with status {fault.name}",
        status=fault.name,
        retry_after=fault.retry_after if too_many else None,
    )


def spoil(chunks: Iterable[bytes], name: FaultName | int) -> Iterator[bytes]:
    """Spoil the first chunk of a results file; after a cut nothing follows."""
    for index, chunk in enumerate(chunks):
        if index == 0:
            yield _spoil_lines(chunk, name)
            if name == "cut":
                return
        else:
            yield chunk


def _spoil_lines(chunk: bytes, name: FaultName | int) -> bytes:
    lines = chunk.splitlines(keepends=True)
    middle = len(lines) // 2
    line = lines[middle]
    match name:
        case "missing_line":
            lines[middle : middle + 1] = []
        case "duplicate_line":
            lines.insert(middle, line)
        case "garbage_line":
            lines[middle] = b"<html>502 Bad Gateway</html>\n"
        case "cut":
            lines[middle:] = [line[: len(line) // 2]]
    return b"".join(lines)


def _rest(fault: Fault) -> list[Fault]:
    if fault.after:
        return [replace(fault, after=fault.after - 1)]
    return [replace(fault, times=fault.times - 1)] if fault.times > 1 else []


def _choices(what: str, value: object, allowed: Iterable[str]) -> str:
    return f"No {what} {value!r}. There is: {', '.join(allowed)}."
