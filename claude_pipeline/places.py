"""Objects on S3 and GCS, by URL, through fsspec: as much of a path as reading, writing whole and listing take.

fsspec and what it loads is imported with the first URL. Credentials, endpoints and regions come from where its file
systems look: AWS_* and ~/.aws, GOOGLE_APPLICATION_CREDENTIALS, and fsspec's own configuration.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias
from urllib.parse import urlsplit

from claude_pipeline.errors import PipelineError, PlaceError
from claude_pipeline.trouble import MissingPlaceError, Verb, explain

_EXTRAS = {"s3": ("s3", "s3fs"), "gs": ("gcs", "gcsfs")}  # by scheme: the extra of ours, and what it installs
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_BLOCK_BYTES = 8 << 20
_MOST_PARTS = 9_000  # S3 takes 10,000


@dataclass(frozen=True, slots=True)
class RemotePath(os.PathLike[str]):
    """An object, or what would be a folder of objects; what goes wrong with it is a `PlaceError`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        return self.url

    def absolute(self) -> "RemotePath":
        """Return itself."""
        return self

    def as_uri(self) -> str:
        """Return the URL."""
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """What the name ends with, such as `.parquet`."""
        return Path(self.name).suffix

    @property
    def files(self) -> Any:  # noqa: ANN401  fsspec has no types
        """The file system that knows it."""
        return _file_system(urlsplit(self.url).scheme)

    def exists(self) -> bool:
        """Tell whether there is such an object."""
        return (self._info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Tell whether there are objects below, as if in a folder."""
        return (self._info() or {}).get("type") == "directory"

    def version(self) -> tuple[str, int]:
        """Return what tells the object from others that had its name before, and its size in bytes.

        Raises:
            MissingPlaceError: There is no such object.
        """
        info = self._info()
        if info is None or info["type"] != "file":
            raise MissingPlaceError(f"There is no {self}.")
        return " ".join(str(info.get(name)) for name in ("ETag", "etag", "generation", "LastModified")), info["size"]

    def _info(self) -> dict[str, Any] | None:
        try:
            with told(self, "read"):
                found: dict[str, Any] = self.files.info(self.url)
        except MissingPlaceError:
            return None
        return found

    def glob(self) -> list["RemotePath"]:
        """List the objects that the URL matches, taken as a pattern."""
        with told(self, "read"):
            found = self.files.glob(self.url, detail=True)
        return [self._of(key) for key, info in sorted(found.items()) if info["type"] == "file"]

    def below(self) -> list["RemotePath"]:
        """List all objects below."""
        with told(self, "read"):
            return [self._of(key) for key in sorted(self.files.find(f"{self.url.rstrip('/')}/"))]

    def _of(self, key: str) -> "RemotePath":
        return RemotePath(f"{urlsplit(self.url).scheme}://{key}")

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """Open the object to read it, in memory that does not grow with it."""
        with told(self, "read"):
            opened = self.files.open(self.url, mode, block_size=_BLOCK_BYTES, cache_type="readahead")
        return io.BufferedReader(_Reader(self, opened))

    def read_bytes(self) -> bytes:
        """Read a small object."""
        with told(self, "read"):
            content: bytes = self.files.cat_file(self.url)
        return content

    def read_text(self, *, encoding: str) -> str:
        """Read a small object of text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Write a small object, whole or not at all."""
        with told(self, "written"):
            self.files.pipe_file(self.url, data)

    def write_file(self, path: Path) -> None:
        """Write a local file as an object, whole or not at all."""
        Upload(self, path).commit()

    def check_writable(self) -> None:
        """Begin an upload and give it up: nobody sees it, and who may not write hears of it.

        Raises:
            PlaceError: The object may not be written, or its bucket is not there.
        """
        Upload(self, None).discard()

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            with told(self, "removed"):
                self.files.rm_file(self.url)
        except MissingPlaceError:
            if not missing_ok:
                raise


Place: TypeAlias = Path | RemotePath


def is_url(path: object) -> bool:
    """Tell a URL from a path of the file system."""
    return isinstance(path, str | os.PathLike) and _URL.match(str(path)) is not None


def remote_path(url: str | os.PathLike[str]) -> RemotePath:
    """Take a URL for a place; nobody is asked yet.

    Raises:
        PlaceError: It is none that can be read and written, or holds credentials.
    """
    text = str(url)
    parts = urlsplit(text)
    if parts.scheme not in _EXTRAS:
        known = " or ".join(f"{scheme}://" for scheme in _EXTRAS)
        raise PlaceError(
            f"Nothing here reads or writes {parts.scheme}://. Name a path, or a URL that begins with {known}."
        )
    if "@" in parts.netloc:
        raise PlaceError(
            f"A URL of {parts.scheme}:// holds credentials. Leave them out, and set them in the environment."
        )
    if not parts.netloc:
        raise PlaceError(f"{text} names no bucket. Write {parts.scheme}://bucket/name.")
    return RemotePath(text)


def _file_system(scheme: str) -> Any:  # noqa: ANN401  fsspec has no types
    extra, package = _EXTRAS[scheme]
    try:
        import fsspec  # noqa: PLC0415  half a second, and only who has a URL needs it

        # Listings that are kept would hide what other processes have written since.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise PlaceError(f"{scheme}:// needs {package}: pip install 'claude-pipeline[{extra}]'") from error


@contextmanager
def told(place: RemotePath, verb: Verb) -> Iterator[None]:
    """Say in one sentence what goes wrong with a place, whatever error its client has for it."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        trouble = explain(error, place.url, verb=verb)
        if not isinstance(trouble, MissingPlaceError):
            type(place.files).clear_instance_cache()  # what is mended in the environment holds from the next time on
        raise trouble from error


class Upload:
    """A file on its way to be an object: all of it was sent, and nobody sees it before it is committed.

    Without a file it is one to try out whether it could be.

    Raises:
        PlaceError: It was not taken; nothing is left behind.
    """

    def __init__(self, place: RemotePath, path: Path | None) -> None:
        self._place, self._is_done = place, False
        block = max(_BLOCK_BYTES, (path.stat().st_size if path else 0) // _MOST_PARTS)
        with told(place, "written"):
            self._file = place.files.open(place.url, "wb", block_size=block, autocommit=False)
            try:
                self._send(path)
            except BaseException:
                self.discard()
                raise

    def _send(self, path: Path | None) -> None:
        if path is None:
            self._file.write(b"\0")
        else:
            with path.open("rb") as file:
                while data := file.read(_BLOCK_BYTES):
                    self._file.write(data)
        self._file.close()

    def commit(self) -> None:
        """Make it an object, in the place of an earlier one."""
        with told(self._place, "written"):
            self._file.commit()
            self._is_done = True

    def discard(self) -> None:
        """Give it up, unless it is an object."""
        if not self._is_done:
            self._is_done = True
            with suppress(Exception):  # what is left is no object, and what failed before says more
                self._file.discard()
            self._file.closed = True


class _Reader(io.RawIOBase):
    """An object that is being read, whose errors are ours."""

    def __init__(self, place: RemotePath, file: BinaryIO) -> None:
        super().__init__()
        self._place, self._file = place, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  a writable buffer, which has no name before Python 3.12
        with told(self._place, "read"):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()
