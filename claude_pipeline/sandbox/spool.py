"""A body as it comes in: a large one lies in a temporary file and is read from there as if it were memory."""

from mmap import ACCESS_READ, mmap
from tempfile import SpooledTemporaryFile
from typing import Final, Self

IN_MEMORY: Final = 1_000_000
Body = bytes | mmap


class Spool:
    """Gather chunks; above a megabyte on disk. Use it with `with`: the body outlives it."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - closed on leaving
        self.size = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the file; a body that was taken stays readable."""
        self._file.close()

    def write(self, chunk: bytes) -> None:
        """Add a chunk."""
        self._file.write(chunk)
        self.size += len(chunk)

    def body(self) -> Body:
        """Return what was gathered, as a buffer."""
        if self.size <= IN_MEMORY:
            self._file.seek(0)
            return self._file.read()
        self._file.flush()
        return mmap(self._file.fileno(), 0, access=ACCESS_READ)
