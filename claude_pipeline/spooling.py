"""Result lines on their way to a file: which of them came, and where each lies.

Lines come in any order; the shard's order decides.
"""

import os
from binascii import hexlify
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from claude_pipeline.errors import ResultsError
from claude_pipeline.prompts import ID_BYTES
from claude_pipeline.shards import Members

_BEFORE_ID = b'{"custom_id":"'  # how the API begins a line; one that begins otherwise is decoded
_ID = slice(len(_BEFORE_ID), len(_BEFORE_ID) + 2 * ID_BYTES + 1)  # with the quote behind it
_NEAR_BYTES = 16
_UNPLACED = {"unknown": -1, "unreadable": -2, "blank": -3}


class _Address(msgspec.Struct, gc=False):
    custom_id: str


_decode_address = msgspec.json.Decoder(_Address).decode


@dataclass(frozen=True, slots=True)
class Spool:
    """Where each request's line lies in a spooled results file, in the shard's order."""

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]

    @property
    def missing(self) -> frozenset[int]:
        """The positions whose line did not come."""
        return frozenset(np.flatnonzero(self.lengths == 0).tolist())

    def read(self, file: BinaryIO, start: int, stop: int) -> list[bytes]:
        """Read the lines of these positions, neighbors in the file together; one that did not come is empty."""
        offsets, lengths = self.offsets[start:stop], self.lengths[start:stop]
        ends = offsets + lengths
        gaps = offsets[1:] - ends[:-1]
        apart = (gaps < 0) | (gaps > _NEAR_BYTES) | (lengths[1:] == 0) | (lengths[:-1] == 0)
        edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(offsets)]
        starts, stops = offsets.tolist(), ends.tolist()
        lines: list[bytes] = []
        for first, after in pairwise(edges):
            begin, size = starts[first], stops[after - 1] - starts[first]
            piece = os.pread(file.fileno(), size, begin) if size else b""
            places = zip(starts[first:after], stops[first:after], strict=True)
            lines += [piece[place - begin : end - begin] for place, end in places]
        return lines


def spool_lines(
    chunks: Iterable[bytes], members: Members, file: BinaryIO, *, absent: frozenset[int] = frozenset()
) -> Spool:
    """Write result lines to a file, and note where the line of each request lies.

    Only lines at the positions `absent` may be missing. A file that begins with a stranger's line is read no further.

    Raises:
        ResultsError: Lines are missing, doubled, strange or garbled: the file is not what was sent.
    """
    spooling = _Spooling(members)
    for offset, lines in split_lines(chunks, file):
        spooling.add(offset, lines)
    spooling.check(absent)
    return spooling.spool


class _Spooling:
    """Lines find their places."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._places = {hexlify(address) + b'"': place for place, address in enumerate(members.split())}
        self._faults = dict.fromkeys(("unknown", "doubled", "unreadable"), 0)
        self.spool = Spool(np.full(len(members), -1, dtype=np.int64), np.zeros(len(members), dtype=np.int32))

    def add(self, offset: int, lines: list[bytes]) -> None:
        """Place lines that stand one after the other, the first one at an offset."""
        get, closer = self._places.get, self._look_closer
        found = [get(line[_ID]) for line in lines]
        if None in found:
            found = [closer(line) if place is None else place for place, line in zip(found, lines, strict=True)]
        if not offset and found and found[0] == _UNPLACED["unknown"]:
            message = f"The first result belongs to none of the {len(self._members):,} requests."
            raise ResultsError(message, strangers=1)
        places = np.array(found, dtype=np.int64)
        lengths = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
        offsets = offset + np.cumsum(lengths + 1) - lengths - 1
        for fault in ("unknown", "unreadable"):
            self._faults[fault] += int(np.count_nonzero(places == _UNPLACED[fault]))
        placed = places >= 0
        self._place(places[placed], offsets[placed], lengths[placed])

    def _look_closer(self, line: bytes) -> int:
        """Return the place of a line, or why it has none."""
        if not line.strip():
            return _UNPLACED["blank"]
        try:
            custom_id = _decode_address(line).custom_id
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _UNPLACED["unreadable"]
        return self._places.get(custom_id.encode(errors="replace") + b'"', _UNPLACED["unknown"])

    def _place(
        self, places: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> None:
        """Take the first line for each place."""
        some, firsts = np.unique(places, return_index=True)
        new = self.spool.lengths[some] == 0
        some, firsts = some[new], firsts[new]
        self._faults["doubled"] += len(places) - len(some)
        self.spool.offsets[some], self.spool.lengths[some] = offsets[firsts], lengths[firsts]

    def check(self, absent: frozenset[int]) -> None:
        """Make sure that all lines came but those that may be missing, and nothing else."""
        faults, missing = self._faults, self.spool.missing
        if not any(faults.values()) and missing <= absent:
            return
        counts = faults | {"missing": len(missing)}
        found = ", ".join(f"{count:,} {fault}" for fault, count in counts.items() if count)
        message = f"The results of {len(self._members):,} requests do not agree with what was sent: {found}."
        lacking = frozenset[int]() if any(faults.values()) else missing
        raise ResultsError(message, strangers=faults["unknown"], missing=lacking)


def split_lines(chunks: Iterable[bytes], file: BinaryIO) -> Iterator[tuple[int, list[bytes]]]:
    """Write chunks to a file, and yield the lines that each completes, with the offset of the first; some are blank."""
    offset = 0
    rest = b""
    for chunk in chunks:
        file.write(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        yield offset, lines
        offset += sum(map(len, lines)) + len(lines)
    if rest:
        yield offset, [rest]
    file.flush()
