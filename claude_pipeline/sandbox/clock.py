"""The sandbox's own time."""

from time import time
from typing import Final

MOST_SECONDS: Final = 100 * 365 * 24 * 60 * 60.0


class Clock:
    """Real time plus every step forward that was asked for."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Step forward; a step back, or a century ahead, is a `ValueError`."""
        if not 0 <= seconds <= MOST_SECONDS - self._ahead:
            error = f"A clock goes forward, at most {MOST_SECONDS:.0f} seconds in all, not by {seconds}."
            raise ValueError(error)
        self._ahead += seconds
