"""Files that appear whole or not at all."""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from claude_pipeline.errors import StoreError
from claude_pipeline.places import Place, RemotePath

TEMPORARY = ".*.tmp"


@contextmanager
def replacing(path: Place, *, mode: int = 0o666) -> Iterator[Path]:
    """Give a new file to write to, then make it durable under its name; an object store is sent it as a whole.

    Raises:
        PlaceError: The object store does not take it; nothing is left behind.
        StoreError: The file cannot be written; nothing is left behind.
    """
    if isinstance(path, RemotePath):
        with scratch() as folder:
            yield folder / path.name
            path.write_file(folder / path.name)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(mode, exist_ok=False)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder of the system's for files on their way to an object store; it is gone when the body is done.

    Raises:
        StoreError: It takes no file.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="claude-pipeline-") as folder:
            yield Path(folder)
    except OSError as error:
        raise cannot_write(Path(tempfile.gettempdir()), error) from error


@contextmanager
def reading(path: Place) -> Iterator[None]:
    """Say which Parquet file of the store it was that could not be read.

    Raises:
        StoreError: Arrow finds it damaged, or the disk fails.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        words = str(error).partition("\n")[0]
        raise StoreError(f"{path} cannot be read ({words}). Bring it back from a backup, or submit anew.") from error


_WAYS_OUT: dict[int | None, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free some room"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "Name a folder instead of a file"),
}


def make_folder(path: Path, *, mode: int = 0o777) -> None:
    """Make a folder, durably, unless it is there."""
    if not path.is_dir():
        path.mkdir(mode, exist_ok=True)
        _sync(path.parent)


def make_file(path: Path, *, mode: int = 0o666) -> None:
    """Make an empty file, durably, unless it is there."""
    if not path.exists():
        path.touch(mode)
        _sync(path.parent)


def cannot_write(folder: Path, error: OSError) -> StoreError:
    """Say why a folder takes no file, and the way out."""
    way_out = _WAYS_OUT.get(error.errno, "Make it writable")
    return StoreError(f"Cannot write to {folder}: {error.strerror or error}. {way_out} and run the same command again.")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
