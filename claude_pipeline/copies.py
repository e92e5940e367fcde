"""Local copies of what a store on S3 or GCS holds, so that a file is fetched once, and files on their way there.

They lie in `claude-pipeline` under XDG_CACHE_HOME, else ~/.cache, and are of no account: what is not there is fetched
again. Beyond 10 GB those that were not used for longest are removed.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from claude_pipeline.errors import StoreError
from claude_pipeline.files import cannot_write, replacing
from claude_pipeline.places import Place, RemotePath

MOST_BYTES = 10_000_000_000
_MODE = 0o600
_AT_HAND_SECONDS = 60.0  # who was given a copy has opened it by then, and keeps it whoever removes it


def local_folder(name: str) -> Path:
    """Return a folder for copies or for files on their way, made if need be.

    Raises:
        StoreError: It cannot be made.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "claude-pipeline"
    folder = root / name
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"There is no room for local copies: {root} cannot be made ({error.strerror}). "
            "Set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    return folder


def local_copy(place: Place) -> Path:
    """Return a local file with what is at a place now; a local one is its own.

    Raises:
        MissingPlaceError: There is nothing.
        PlaceError: It cannot be fetched.
        StoreError: There is no room for it.
    """
    if isinstance(place, Path):
        return place
    version, size = place.version()
    copy = _copy_of(place, version)
    if not _is_whole(copy, size):
        with replacing(copy, mode=_MODE) as temporary, place.open() as remote, temporary.open("wb") as file:
            shutil.copyfileobj(remote, file, 1 << 20)
        _make_room(copy.parent)
    return copy


@contextmanager
def sending(place: RemotePath) -> Iterator[Path]:
    """Give a local file to write to, which is sent as a whole and stays as a copy.

    Raises:
        PlaceError: It is not taken.
        StoreError: The local disk does not take it.
    """
    temporary = local_folder("copies") / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.touch(_MODE, exist_ok=False)
        yield temporary
        place.write_file(temporary)
        with suppress(StoreError):  # it is there, and can be fetched
            temporary.replace(_copy_of(place, place.version()[0]))
            _make_room(temporary.parent)
    except OSError as error:
        raise cannot_write(temporary.parent, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy_of(place: RemotePath, version: str) -> Path:
    return local_folder("copies") / blake2b(f"{place}\0{version}".encode(), digest_size=16).hexdigest()


def _is_whole(copy: Path, size: int) -> bool:
    """Tell whether there is a copy, and that it is used."""
    try:
        os.utime(copy)
        return copy.stat().st_size == size
    except FileNotFoundError:
        return False


def _make_room(folder: Path) -> None:
    """Remove what was not used for longest while there is more than there may be."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process makes room as well
            found.append(((told := path.stat()).st_mtime, told.st_size, path))
    total = 0
    for used_at, size, path in sorted(found, reverse=True):
        total += size
        if total > MOST_BYTES and time.time() - used_at > _AT_HAND_SECONDS:
            path.unlink(missing_ok=True)
