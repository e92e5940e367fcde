"""How long nobody has asked anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic


class Activity:
    """The requests being answered, and when the last one was."""

    def __init__(self) -> None:
        self._requests = 0
        self._idle_since = monotonic()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Be busy for the length of a block."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._idle_since = monotonic()

    def idle_seconds(self) -> float:
        """Return the seconds since the last answer; 0 while there is one on its way."""
        return 0.0 if self._requests else monotonic() - self._idle_since
