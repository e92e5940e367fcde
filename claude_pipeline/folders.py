"""A folder of Parquet files for what one file is too large for; it appears whole or not at all.

An object store has no folders to rename. There all parts are sent before the first becomes an object, which takes
moments for all of them, and an empty object `_SUCCESS` is written last: whoever reads where it stands reads the whole.
"""

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from claude_pipeline.errors import OutputError
from claude_pipeline.files import cannot_write, make_folder, replacing, scratch
from claude_pipeline.places import Place, RemotePath, Upload

PART_ROWS = 1_000_000
PART_BYTES = 256_000_000
FIRST_PART = "part-00000.parquet"
_PART = re.compile(r"part-\d{5,}\.parquet")
_WHOLE = "_SUCCESS"


class PartWriter(Protocol):
    """What writes one file."""

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Take rows."""

    def close(self) -> None:
        """Write what is left."""


OpenPart = Callable[[Path], PartWriter]
_NewPart = Callable[[str], AbstractContextManager[Path]]


def check_folder(path: Place) -> None:
    """Make sure that a folder of answers can take the place of what is at `path`.

    Raises:
        OutputError: There is something that no such write made, or the place cannot be written.
    """
    if isinstance(path, Path):
        _check_parent(path)
    if foreign := sorted(_foreign(path)):
        raise OutputError(
            f"The folder {path} holds {foreign[0]}, which answers are not written to, and would be replaced as a "
            f"whole. Name a new folder, or one with nothing but {FIRST_PART} and so on."
        )


def _check_parent(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file, where a folder should be written. Remove it, or name another folder.")
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent} to write {path.name} to. Create it first.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"The folder {path.parent} cannot be written. Choose another place for {path.name}.")


def _foreign(path: Place) -> Iterator[str]:
    if isinstance(path, RemotePath):
        yield from (name for name in _names_below(path) if not _PART.fullmatch(name) and name != _WHOLE)
        return
    for entry in path.iterdir() if path.is_dir() else ():
        if entry.is_dir() or not _PART.fullmatch(entry.name):
            yield entry.name


def _names_below(path: RemotePath) -> Iterator[str]:
    """List the objects below, without the one of no name that some tools make for a folder."""
    above = f"{str(path).rstrip('/')}/"
    return filter(None, (str(found).removeprefix(above) for found in path.below()))


def write_folder(
    path: Place,
    batches: Iterable[pa.RecordBatch],
    *,
    open_part: OpenPart,
    rows: int = PART_ROWS,
    size: int = PART_BYTES,
) -> None:
    """Write batches as `part-00000.parquet` and so on, each of about so many rows or bytes at most.

    Raises:
        OutputError: Meanwhile something else was put into the folder.
        PlaceError: The object store does not take it.
        StoreError: The disk does not take it; what was there is as it was.
    """
    with _replacing_objects(path) if isinstance(path, RemotePath) else _replacing_folder(path) as new_part:
        left = (batch for batch in batches if batch.num_rows)
        batch = next(left, None)
        for number in _numbers():
            with new_part(f"part-{number:05}.parquet") as part:
                batch = _fill(part, batch, left, open_part=open_part, rows=rows, size=size)
            if batch is None:
                return


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _fill(
    part: Path,
    batch: pa.RecordBatch | None,
    left: Iterator[pa.RecordBatch],
    *,
    open_part: OpenPart,
    rows: int,
    size: int,
) -> pa.RecordBatch | None:
    """Write a file; return the first batch of the next one."""
    writer = open_part(part)
    try:
        while batch is not None:
            room = rows
            writer.write_batch(batch[:room])
            rows -= min(room, batch.num_rows)
            batch = batch[room:] if batch.num_rows > room else next(left, None)
            if not rows or part.stat().st_size >= size:
                return batch
    finally:
        writer.close()
    return None


@contextmanager
def _replacing_folder(path: Path) -> Iterator[_NewPart]:
    """Give files of a new folder beside `path`, which takes its name when it is whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        make_folder(temporary)
        yield lambda name: replacing(temporary / name)
        check_folder(path)
        _swap(temporary, path)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _replacing_objects(path: RemotePath) -> Iterator[_NewPart]:
    """Give local files, which become the objects of a folder, in the place of older ones, once all were sent."""
    sent: dict[str, Upload] = {}

    @contextmanager
    def new_part(name: str) -> Iterator[Path]:
        with scratch() as folder:
            yield folder / name
            sent[name] = Upload(path / name, folder / name)

    try:
        yield new_part
        check_folder(path)
        (path / _WHOLE).unlink(missing_ok=True)
        for upload in sent.values():
            upload.commit()
        for old in set(_names_below(path)) - sent.keys():
            (path / old).unlink(missing_ok=True)
        (path / _WHOLE).write_bytes(b"")
    finally:
        for upload in sent.values():
            upload.discard()


def _swap(new: Path, path: Path) -> None:
    """Put a folder in the place of an older one, which stays if that fails."""
    if not path.exists():
        new.rename(path)
        _sync(path.parent)
        return
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    _sync(path.parent)
    with suppress(OSError):  # the new one is in its place
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
