"""Every request received, in the order of the answers."""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final

from msgspec import Struct
from rich.filesize import decimal

MOST_ENTRIES: Final = 100_000


class Entry(Struct, frozen=True, kw_only=True, gc=False):
    """A request and what was answered; nothing of its content, and no key.

    Attributes:
        at: When it came, RFC 3339, by the sandbox's clock.
        status: What the client was told; null if the connection was cut without an answer.
        batch_id: The batch it created or asked for.
        received_bytes: The size of the body as it came.
        seconds: How long the answer took, to its last byte.
        fault: The fault that it met.
    """

    at: str
    method: str
    path: str
    status: int | None
    batch_id: str | None
    workspace: str
    request_id: str
    received_bytes: int
    seconds: float
    fault: str | None

    def line(self) -> str:
        """Show the entry on one line."""
        words = [self.at[11:19], self.method, self.path, str(self.status or "cut")]
        words += [decimal(self.received_bytes) if self.received_bytes else "", f"{self.seconds * 1000:.0f} ms"]
        words += [self.batch_id or "", f"fault: {self.fault}" if self.fault else ""]
        return " ".join(word for word in words if word)


class Log:
    """The last 100,000 entries; `on_entry` hears of each."""

    def __init__(self, on_entry: Callable[[Entry], None] | None = None) -> None:
        self._on_entry = on_entry
        self._entries: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self._lock = Lock()

    def add(self, entry: Entry) -> None:
        """Keep an entry."""
        with self._lock:
            self._entries.append(entry)
        if self._on_entry:
            self._on_entry(entry)

    def entries(self) -> Sequence[Entry]:
        """Return the entries, oldest first."""
        with self._lock:
            return [*self._entries]
