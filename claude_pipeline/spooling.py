"""Result lines on their way to a file: which of them came, and where each lies.

Lines come in any order; the shard's order decides.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from claude_pipeline.arrays import Flags, Numbers
from claude_pipeline.errors import ResultsError
from claude_pipeline.prompts import ID_BYTES
from claude_pipeline.shards import ADDRESS, Members, address_of

_BEFORE_ID = b'{"custom_id":"'  # how the API begins a line; one that begins otherwise is decoded
_BEFORE = np.frombuffer(_BEFORE_ID, dtype=np.uint8)
_ID = slice(len(_BEFORE_ID), len(_BEFORE_ID) + 2 * ID_BYTES)
_HEAD = np.arange(_ID.stop + 1)  # with the quote behind it
_NEWLINE, _QUOTE = b'\n"'
_NO_DIGIT = 16
_DIGITS = np.full(256, _NO_DIGIT, dtype=np.uint8)
_DIGITS[list(b"0123456789abcdef")] = np.arange(_NO_DIGIT)
_NEAR_BYTES = 16
_RUN_BYTES = 1_000_000
_UNPLACED = {"unknown": -1, "unreadable": -2, "blank": -3}


class _Address(msgspec.Struct, gc=False):
    custom_id: str


_decode_address = msgspec.json.Decoder(_Address).decode

_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Spool:
    """Where each request's line lies in a spooled results file, in the shard's order."""

    offsets: Numbers
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
    for offset, lines in spool_whole(chunks, file):
        spooling.add(offset, lines)
    spooling.check(absent)
    return spooling.spool


class _Spooling:
    """Lines find their places."""

    def __init__(self, members: Members) -> None:
        self._members = members
        addresses = members.as_array()
        self._order = np.argsort(addresses)
        self._ascending = addresses[self._order]
        self._beginnings = _beginnings(self._ascending)
        self._faults = dict.fromkeys(("unknown", "doubled", "unreadable"), 0)
        self.spool = Spool(np.full(len(members), -1, dtype=np.int64), np.zeros(len(members), dtype=np.int32))

    def add(self, offset: int, lines: bytes) -> None:
        """Place whole lines that stand at an offset of the file."""
        text = np.frombuffer(lines, dtype=np.uint8)
        ends = np.flatnonzero(text == _NEWLINE)
        if not lines.endswith(b"\n"):
            ends = np.append(ends, len(text))
        starts = np.concatenate(([0], ends[:-1] + 1))
        addresses, usual = _read_addresses(text, starts, ends)
        places = np.empty(len(starts), dtype=np.int64)
        places[usual] = self._find(addresses)
        for at in np.flatnonzero(~usual).tolist():
            places[at] = self._look_closer(lines[starts[at] : ends[at]])
        if not offset and places[0] == _UNPLACED["unknown"]:
            message = f"The first result belongs to none of the {len(self._members):,} requests."
            raise ResultsError(message, strangers=1)
        for fault in ("unknown", "unreadable"):
            self._faults[fault] += int(np.count_nonzero(places == _UNPLACED[fault]))
        placed = places >= 0
        self._place(places[placed], offset + starts[placed], (ends - starts)[placed])

    def _find(self, addresses: npt.NDArray[np.bytes_]) -> Numbers:
        """Return the places of requests; what is none of them has none."""
        if not len(self._order):
            return np.full(len(addresses), _UNPLACED["unknown"])
        at = np.minimum(np.searchsorted(self._beginnings, _beginnings(addresses)), len(self._order) - 1)
        if not np.array_equal(self._ascending[at], addresses):  # strangers, or two that begin alike
            at = np.minimum(np.searchsorted(self._ascending, addresses), len(self._order) - 1)
        return np.where(self._ascending[at] == addresses, self._order[at], _UNPLACED["unknown"])

    def _look_closer(self, line: bytes) -> int:
        """Return the place of a line, or why it has none."""
        if not line.strip():
            return _UNPLACED["blank"]
        try:
            custom_id = _decode_address(line).custom_id
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _UNPLACED["unreadable"]
        if not (address := address_of(custom_id)):
            return _UNPLACED["unknown"]
        return int(self._find(np.frombuffer(address, dtype=ADDRESS))[0])

    def _place(self, places: Numbers, offsets: Numbers, lengths: Numbers) -> None:
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


def _beginnings(addresses: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of addresses as numbers, which are found faster and have the same order."""
    return np.frombuffer(addresses.tobytes(), dtype=">u8")[::2].astype(np.uint64)


def _read_addresses(text: _Bytes, starts: Numbers, ends: Numbers) -> tuple[npt.NDArray[np.bytes_], Flags]:
    """Return the addresses of the lines that begin as usual, and which do."""
    usual = ends - starts >= len(_HEAD)
    heads = text[starts[usual][:, np.newaxis] + _HEAD]
    digits = _DIGITS[heads[:, _ID]]
    begun = (heads[:, : _ID.start] == _BEFORE).all(axis=1) & (heads[:, -1] == _QUOTE) & (digits < _NO_DIGIT).all(axis=1)
    usual[usual] = begun
    digits = digits[begun]
    return (digits[:, ::2] << 4 | digits[:, 1::2]).view(ADDRESS).ravel(), usual


def spool_whole(chunks: Iterable[bytes], file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Write chunks to a file, and yield whole lines, about 1 MB at a time, with their offset; some are blank.

    The first ones come as soon as they are whole, since they may show that the file is another's.
    """
    offset, enough = 0, 0
    pieces: list[bytes] = []
    size = 0
    for chunk in chunks:
        file.write(chunk)
        cut = chunk.rfind(_NEWLINE) + 1
        if not cut or size + cut < enough:
            pieces.append(chunk)
            size += len(chunk)
            continue
        lines = b"".join((*pieces, memoryview(chunk)[:cut]))
        yield offset, lines
        offset += len(lines)
        pieces, size, enough = [chunk[cut:]], len(chunk) - cut, _RUN_BYTES
    if size:
        yield offset, b"".join(pieces)
    file.flush()
