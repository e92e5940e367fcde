"""How fast to ask: all rows of a run share one pace.

It starts gently, asks for more at once with every answer, and rests for everybody when the API says so.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_AT_FIRST = 2
_LIMITS = ("requests", "input-tokens", "output-tokens", "tokens")


class StoppedError(Exception):
    """The run is over; whoever waits need wait no more."""


class Pace:
    """The pace of a run. Times are seconds of the monotonic clock."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._room = min(_AT_FIRST, most)
        self._running = 0
        self._rests_until = 0.0
        self._stopped = False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a place, and hold it while the body runs.

        Raises:
            StoppedError: The run is over.
        """
        with self._changed:
            while not self._stopped and (left := self._seconds_left()) != 0:
                self._changed.wait(left)
            if self._stopped:
                raise StoppedError
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _seconds_left(self) -> float | None:
        """Return how long to wait for a place: 0 if there is one, None until somebody leaves."""
        if self._running >= self._room:
            return None
        return max(0.0, self._rests_until - time.monotonic())

    def note(self, headers: Mapping[str, str]) -> None:
        """Make room for one more after an answer, and rest where its headers say that a limit is reached."""
        with self._changed:
            self._room = min(self._most, self._room + 1)
            self._rests_until = max(self._rests_until, time.monotonic() + _seconds_to_rest(headers))
            self._changed.notify_all()

    def slow_down(self, seconds: float) -> None:
        """Let everybody rest, and go on with half as many at once."""
        with self._changed:
            self._room = max(1, self._room // 2)
            self._rests_until = max(self._rests_until, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait without a place.

        Raises:
            StoppedError: The run is over.
        """
        until = time.monotonic() + seconds
        with self._changed:
            while not self._stopped and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._stopped:
                raise StoppedError

    def check(self) -> None:
        """Go on only while the run does. Errors: StoppedError."""
        if self._stopped:
            raise StoppedError

    def stop(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def _seconds_to_rest(headers: Mapping[str, str]) -> float:
    """Return how long it takes until a limit that is used up has room again, by the API's clock."""
    prefix = "anthropic-ratelimit-"
    used_up = [limit for limit in _LIMITS if headers.get(f"{prefix}{limit}-remaining") == "0"]
    return max((_seconds_until(headers.get(f"{prefix}{limit}-reset"), headers) for limit in used_up), default=0.0)


def _seconds_until(reset: str | None, headers: Mapping[str, str]) -> float:
    now = datetime.now(UTC)
    with suppress(ValueError, TypeError):
        now = parsedate_to_datetime(headers.get("date", ""))
    with suppress(ValueError, TypeError):
        return max(0.0, (datetime.fromisoformat(reset or "") - now).total_seconds())
    return 0.0
