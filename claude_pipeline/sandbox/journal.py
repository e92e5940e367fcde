"""What happened to a sandbox, one file an event, so that another process can make it happen again."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

SUFFIX: Final = ".event"


class Event(msgspec.Struct, frozen=True):
    """A change: a batch was created by a body, canceled, or deleted. `now` is seconds since the epoch."""

    kind: Literal["create", "cancel", "delete"]
    batch_id: str
    now: float
    version: str = ""


class Journal:
    """The events of a folder, in order; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._next = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def replay(self) -> Iterator[tuple[Event, bytearray]]:
        """Yield what happened so far, with the bodies."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")) if self._folder else ():
            head, _, body = path.read_bytes().partition(b"\n")
            self._next = int(path.stem) + 1
            yield msgspec.json.decode(head, type=Event), bytearray(body)

    def record(self, event: Event, body: bytes | bytearray = b"") -> None:
        """Keep an event: its file is whole and on the disk, or not there."""
        if self._folder is None:
            return
        path = self._folder / f"{self._next:08}{SUFFIX}"
        self._next += 1
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(event) + b"\n")
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
