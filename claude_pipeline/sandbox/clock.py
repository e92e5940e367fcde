"""The sandbox's own time."""

from collections.abc import Callable
from time import time
from typing import Final

MOST_SECONDS: Final = 100 * 365 * 24 * 60 * 60.0


class Clock:
    """Real time plus every step forward that was asked for."""

    def __init__(self, *, ahead: float = 0.0, on_step: Callable[[float], None] = lambda _seconds: None) -> None:
        self._ahead = ahead
        self._on_step = on_step

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Step forward; a step back, or a century ahead, is a `ValueError`."""
        if not 0 <= seconds <= MOST_SECONDS - self._ahead:
            error = f"A clock goes forward, at most {MOST_SECONDS:.0f} seconds in all, not by {seconds}."
            raise ValueError(error)
        self._on_step(seconds)
        self._ahead += seconds
