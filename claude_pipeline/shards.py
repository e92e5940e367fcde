"""Requests into shards: what fits into one Message Batch, and the bytes of its body.

Pure but for the file that a body is written to.
"""

import re
from binascii import hexlify
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from claude_pipeline.prompts import ID_BYTES, Requests
from claude_pipeline.values import Unsendable

# The API's limits: https://docs.anthropic.com/en/docs/build-with-claude/batch-processing
MAX_REQUESTS = 100_000
MAX_BYTES = 256_000_000

_OPENING, _BETWEEN, _CLOSING = b'{"requests":[', b",", b"]}"
_BEFORE_ID, _BEFORE_PARAMS, _AFTER_PARAMS = b'{"custom_id":"', b'","params":', b"}"
_DIGITS = 2 * ID_BYTES
_FROM_ONE_TO_THE_NEXT = _AFTER_PARAMS + _BETWEEN + _BEFORE_ID
_FRAME_BYTES = len(_OPENING) + len(_CLOSING) - len(_BETWEEN)  # nothing is between the first and the one before
_WRAPPING_BYTES = len(_BETWEEN) + len(_BEFORE_ID) + _DIGITS + len(_BEFORE_PARAMS) + len(_AFTER_PARAMS)

_ID = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")

ADDRESS = np.dtype(f"S{ID_BYTES}")  # arrays of it are compared by all bytes, but their cells lack zeros at the end

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Members:
    """The requests of a shard: 16 bytes of address each, and the input row that each is rendered from, ascending."""

    addresses: bytes
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def address(self, position: int) -> bytes:
        """Return the address at a position in the shard."""
        return self.addresses[position * ID_BYTES : (position + 1) * ID_BYTES]

    def split(self) -> list[bytes]:
        """List the addresses in the shard's order."""
        return [self.addresses[start : start + ID_BYTES] for start in range(0, len(self.addresses), ID_BYTES)]

    def slice(self, start: int, stop: int) -> "Members":
        """Keep the requests from one position to before another."""
        return Members(self.addresses[start * ID_BYTES : stop * ID_BYTES], self.rows[start:stop])

    def as_array(self) -> npt.NDArray[np.bytes_]:
        """View the addresses as an array, to be sorted and compared."""
        return np.frombuffer(self.addresses, dtype=ADDRESS)

    def pick(self, positions: Iterable[int]) -> "Members":
        """Keep the requests at these positions, which ascend."""
        chosen = list(positions)
        return Members(b"".join(self.address(position) for position in chosen), self.rows[chosen])


def largest_request(max_bytes: int) -> int:
    """Return the most bytes that a request may have to fit into a body of at most `max_bytes`, be it alone."""
    return max_bytes - _FRAME_BYTES - _WRAPPING_BYTES


def body_bytes(sizes: npt.NDArray[np.int64]) -> int:
    """Return how many bytes the body of requests of these sizes has."""
    return _FRAME_BYTES + int(sizes.sum()) + len(sizes) * _WRAPPING_BYTES


def cut(sizes: npt.NDArray[np.int64], *, max_requests: int, max_bytes: int, first: bool = False) -> list[int]:
    """Cut requests, each of which fits into a batch alone, into batches as full as may be.

    Returns where they begin, and where the last one ends; that may have room for more. With `first` the first batch is
    one request.
    """
    ends = np.cumsum(sizes + _WRAPPING_BYTES)
    cuts = [0]
    while (start := cuts[-1]) < len(sizes):
        before = ends[start - 1] if start else 0
        fitting = int(np.searchsorted(ends, before + max_bytes - _FRAME_BYTES, side="right"))
        cuts.append(min(fitting, start + (1 if first and not start else max_requests), len(sizes)))
    return cuts


def address_of(custom_id: str) -> bytes | None:
    """Return the address that a `custom_id` says, if it can be one of ours."""
    return bytes.fromhex(custom_id) if _ID.fullmatch(custom_id) else None


def too_large(size: int, max_bytes: int) -> Unsendable:
    """Say that a request fits into no batch."""
    sizes = f"{size:,} bytes, but a batch may have {max_bytes:,}"
    return Unsendable("request_too_large", f"The request has {sizes}. It was not sent; shorten it.")


class Sink(Protocol):
    """What takes bytes."""

    def write(self, data: bytes, /) -> int:
        """Take them, and return how many."""


def write_body(pieces: Iterable[Requests], file: Sink) -> int:
    """Write the body of a create call for requests, of which there is at least one; return its size in bytes."""
    size, before = file.write(_OPENING), _BEFORE_ID
    for requests in pieces:
        digits = hexlify(b"".join(requests.addresses))
        parts = [_FROM_ONE_TO_THE_NEXT] * (4 * len(requests))
        parts[0], before = before, _FROM_ONE_TO_THE_NEXT
        parts[1::4] = [digits[start : start + _DIGITS] for start in range(0, len(digits), _DIGITS)]
        parts[2::4] = [_BEFORE_PARAMS + requests.head] * len(requests)
        parts[3::4] = requests.tails
        size += file.write(b"".join(parts))
    return size + file.write(_AFTER_PARAMS + _CLOSING)
