"""The sandbox's own time."""

from collections.abc import Callable
from time import time
from typing import Final

MOST_SECONDS: Final = 100 * 365 * 24 * 60 * 60.0


class Clock:
    """Real time, plus every step that was asked for, at `speed` sandbox seconds for a real one."""

    def __init__(
        self, *, ahead: float = 0.0, speed: float = 1.0, on_step: Callable[[float], None] = lambda _seconds: None
    ) -> None:
        self._real = time()
        self._then = self._real + ahead
        self._speed = _checked(speed)
        self._on_step = on_step

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._then + (time() - self._real) * self._speed

    def advance(self, seconds: float) -> None:
        """Step forward; a step back, or a century ahead, is a `ValueError`."""
        if not 0 <= seconds <= MOST_SECONDS + time() - self.now():
            error = f"A clock goes forward, at most {MOST_SECONDS:.0f} seconds in all, not by {seconds}."
            raise ValueError(error)
        self._step(seconds)

    def set(self, now: float) -> None:
        """Show another time, in seconds since the epoch; further than a century from the real one is a `ValueError`."""
        if not abs(now - time()) <= MOST_SECONDS:
            error = f"A clock shows a time within a century of the real one, not {now}."
            raise ValueError(error)
        self._step(now - self.now())

    def speed_up(self, speed: float) -> None:
        """Run at `speed` from here on; 0 stops the clock, less is a `ValueError`."""
        _checked(speed)
        self._then, self._real = self.now(), time()
        self._speed = speed

    def _step(self, seconds: float) -> None:
        self._on_step(seconds)
        self._then += seconds


def _checked(speed: float) -> float:
    if not 0 <= speed <= MOST_SECONDS:
        error = f"A clock runs at 0 (it stands) or more, not at {speed}."
        raise ValueError(error)
    return speed
