"""Requests into shards: what fits into one Message Batch, and the bytes of its body.

Pure but for the file that a body is written to.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from claude_pipeline.prompts import ID_BYTES, Request
from claude_pipeline.values import Unsendable

# The API's limits: https://docs.anthropic.com/en/docs/build-with-claude/batch-processing
MAX_REQUESTS = 100_000
MAX_BYTES = 256_000_000

_OPENING, _BETWEEN, _CLOSING = b'{"requests":[', b",", b"]}"
_BEFORE_ID, _BEFORE_PARAMS, _AFTER_PARAMS = b'{"custom_id":"', b'","params":', b"}"
_FRAME_BYTES = len(_OPENING) + len(_CLOSING) - len(_BETWEEN)  # nothing is between the first and the one before
_WRAPPING_BYTES = len(_BETWEEN) + len(_BEFORE_ID) + 2 * ID_BYTES + len(_BEFORE_PARAMS) + len(_AFTER_PARAMS)
_WRITE_BYTES = 1 << 20

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

    def pick(self, positions: Iterable[int]) -> "Members":
        """Keep the requests at these positions, which ascend."""
        chosen = list(positions)
        return Members(b"".join(self.address(position) for position in chosen), self.rows[chosen])


class ShardBuilder:
    """Gathers requests until one more would not fit into a batch; keeps 16 bytes and a row of each."""

    def __init__(self, *, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self._clear()

    def _clear(self) -> None:
        self._rows: dict[bytes, int] = {}
        self.body_bytes = _FRAME_BYTES

    def __contains__(self, address: bytes) -> bool:
        return address in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def is_too_large(self, request: Request) -> bool:
        """Tell whether a request could not even travel alone."""
        return _FRAME_BYTES + _WRAPPING_BYTES + len(request.params) > self.max_bytes

    def fits(self, request: Request) -> bool:
        """Tell whether there is room for one more."""
        size = self.body_bytes + _WRAPPING_BYTES + len(request.params)
        return len(self._rows) < self.max_requests and size <= self.max_bytes

    def add(self, request: Request, row: int) -> None:
        """Take a request that fits, rendered from an input row past all earlier ones."""
        self._rows[request.address] = row
        self.body_bytes += _WRAPPING_BYTES + len(request.params)

    def take(self) -> Members:
        """Hand out what was gathered, and start anew."""
        rows = np.fromiter(self._rows.values(), dtype=np.int64, count=len(self._rows))
        members = Members(b"".join(self._rows), rows)
        self._clear()
        return members


def too_large(request: Request, max_bytes: int) -> Unsendable:
    """Say that a request fits into no batch."""
    size = f"{len(request.params):,} bytes, but a batch may have {max_bytes:,}"
    return Unsendable("request_too_large", f"The request has {size}. It was not sent; shorten it.")


def write_body(requests: Iterable[Request], file: BinaryIO) -> int:
    """Write the body of a create call; return its size in bytes."""
    buffer = bytearray(_OPENING)
    size = 0
    separator = b""
    for request in requests:
        custom_id = request.address.hex().encode()
        buffer += separator + _BEFORE_ID + custom_id + _BEFORE_PARAMS + request.params + _AFTER_PARAMS
        separator = _BETWEEN
        if len(buffer) >= _WRITE_BYTES:
            size += file.write(buffer)
            buffer.clear()
    buffer += _CLOSING
    return size + file.write(buffer)
