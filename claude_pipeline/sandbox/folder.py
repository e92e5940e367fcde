"""A folder that outlives the sandbox: one file an event, and where the sandbox listens."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Final

import msgspec
from msgspec import Struct

from claude_pipeline.sandbox.errors import FolderError, InUseError, UnreadableError
from claude_pipeline.sandbox.journal import Billed, Created, Event, Journal
from claude_pipeline.sandbox.requests import Request, decode_kept
from claude_pipeline.sandbox.spool import Body

SUFFIX: Final = ".event"
BILLED: Final = "billed.json"
SERVER: Final = "server.json"
LOCK: Final = "lock"
LOCK_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.02

_EVENT: Final = msgspec.json.Decoder(Event)


class Announcement(Struct, frozen=True):
    """Where a folder's sandbox listens, or did, and what `GET /_sandbox/identity` answers there only."""

    port: int
    pid: int
    identity: str


class FolderJournal(Journal):
    """The events of a folder; one process at a time holds it.

    Raises:
        FolderError: The folder cannot be written.
        InUseError: Another sandbox holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._events = folder, folder / "events"
        with writing(folder):
            make(folder)
            self._events.mkdir(exist_ok=True)
            self._lock = _hold(folder)
        self._next = 0

    def replay(self) -> Iterator[tuple[Event, Sequence[Request]]]:
        """Yield what happened so far.

        Raises:
            UnreadableError: A file is not what was recorded.
        """
        for path in sorted(self._events.glob(f"*{SUFFIX}")):
            yield _read(path)
            self._next = int(path.stem) + 1
        if (billed := self._folder / BILLED).exists():
            yield _read(billed)

    def record(self, event: Event, body: Body = b"") -> None:
        """Keep an event: its file is whole and on the disk, or not there.

        Raises:
            FolderError: It could not be written.
        """
        # Who still asks a sandbox that stopped must not write into what may be another's by now.
        if not self._lock.closed:
            self._write(event, msgspec.json.encode(event) + b"\n", body)

    def announce(self, *, port: int, identity: str) -> None:
        """Write down port, process id and identity."""
        announcement = Announcement(port=port, pid=os.getpid(), identity=identity)
        write_whole(self._folder / SERVER, msgspec.json.encode(announcement), durable=True)

    def close(self) -> None:
        """Let another process hold the folder."""
        self._lock.close()

    def _write(self, event: Event, head: bytes, body: Body) -> None:
        if isinstance(event, Billed):
            # A message need not wait for the disk: only a crash of the machine loses this.
            write_whole(self._folder / BILLED, head, durable=False)
        else:
            write_whole(self._events / f"{self._next:08}{SUFFIX}", head, body, durable=True)
            self._next += 1


def read_announcement(folder: Path) -> Announcement | None:
    """Read where the folder's sandbox was announced last; it need not run any more."""
    try:
        return msgspec.json.decode((folder / SERVER).read_bytes(), type=Announcement)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError):
        return None


def make(folder: Path) -> None:
    """Make the folder, for this user only: it will hold prompts."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def is_held(folder: Path) -> bool:
    """Say whether a sandbox holds the folder, even one too busy to answer."""
    with writing(folder), (folder / LOCK).open("ab") as file:
        return not _try_lock(file)


@contextmanager
def alone(folder: Path, *, name: str) -> Iterator[None]:
    """Wait until no other process is in a block of this name."""
    from fcntl import LOCK_EX, flock  # noqa: PLC0415 - Windows has none; the sandbox in memory works there

    with writing(folder):
        make(folder)
        file = (folder / name).open("ab")
    with file:
        flock(file, LOCK_EX)
        yield


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the system says about a folder into a `FolderError`."""
    try:
        yield
    except InUseError:
        raise
    except OSError as error:
        raise FolderError(folder, reason=error) from error


def write_whole(path: Path, *parts: Body, durable: bool) -> None:
    """Write a file whole or not at all; a durable one outlives a crash of the machine."""
    temporary = path.with_suffix(".tmp")
    with writing(path.parent):
        try:
            with temporary.open("wb") as file:
                file.writelines(parts)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hold(folder: Path) -> IO[bytes]:
    file = (folder / LOCK).open("ab")
    # One that is ending, or a look at the lock, is gone in a moment.
    deadline = monotonic() + LOCK_SECONDS
    while not _try_lock(file):
        if monotonic() > deadline:
            file.close()
            announcement = read_announcement(folder)
            raise InUseError(folder, pid=announcement.pid if announcement else None)
        sleep(LOOK_SECONDS)
    return file


def _try_lock(file: IO[bytes]) -> bool:
    from fcntl import LOCK_EX, LOCK_NB, flock  # noqa: PLC0415 - as above

    try:
        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> tuple[Event, Sequence[Request]]:
    try:
        content = path.read_bytes()
        end = content.find(b"\n") + 1 or len(content)
        event = _EVENT.decode(content[:end])
        return event, decode_kept(memoryview(content)[end:]) if isinstance(event, Created) else ()
    except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
        raise UnreadableError(path, reason=error) from error
