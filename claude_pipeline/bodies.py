"""A shard's requests once more, checked against what was claimed, and the body of the create call that they make."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from gzip import GzipFile
from itertools import chain
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from claude_pipeline.arrays import int64_array
from claude_pipeline.errors import StoreError
from claude_pipeline.logs import tell
from claude_pipeline.prompts import Request, Requests
from claude_pipeline.records import Shard
from claude_pipeline.retrying import forms_of
from claude_pipeline.settings import Settings
from claude_pipeline.shards import Members, write_body
from claude_pipeline.store import Store
from claude_pipeline.transport import Encoding
from claude_pipeline.values import Unsendable

CHANGED = Unsendable(
    "changed_input",
    "A file that the row names was changed after the job was planned, so the row was not sent. "
    "Submit again to ask with the file as it is.",
)
_LEVEL = 6


class ChangedFilesError(Exception):
    """Files that rows of a shard name are not what they were when it was planned.

    Attributes:
        positions: Where those rows stand in the shard.
    """

    def __init__(self, positions: list[int]) -> None:
        super().__init__(positions)
        self.positions = positions


def write_shard(store: Store, shard: Shard, settings: Settings, file: BinaryIO, *, encoding: Encoding = None) -> int:
    """Write the body of a shard's create call in an encoding; return its size in bytes.

    Raises:
        ChangedFilesError: A file that a row names was changed; the body is of no use.
        StoreError: The stored input no longer gives the same requests.
    """
    changed: list[int] = []

    def unchanged() -> Iterator[Requests]:
        first = 0
        for requests in _render(store, shard, settings):
            changed.extend(first + place for place in requests.refused)
            first += len(requests)
            if not changed:
                yield requests

    with GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL) if encoding else nullcontext(file) as body:
        write_body(unchanged(), body)
    if changed:
        raise ChangedFilesError(changed)
    return file.tell()


def shard_requests(store: Store, shard: Shard, settings: Settings) -> Iterator[Request | Unsendable]:
    """Render a shard's requests once more, in its order; `CHANGED` where a file that the row names was.

    Raises:
        StoreError: The stored input no longer gives the same requests.
    """
    return chain.from_iterable(_render(store, shard, settings))


def _render(store: Store, shard: Shard, settings: Settings) -> Iterator[Requests]:
    members, form, forms = store.ledger.members(shard.shard), settings.form, forms_of(settings.form, shard.asking)
    first = 0
    with store.reader(shard.job_id, form.columns) as reader:
        batches = reader.read(int(members.rows[0]), int(members.rows[-1]))
        picked = (_pick(batch, at, members) for at, batch in batches)
        for piece in chain.from_iterable(map(form.pieces, picked)):
            requests = _as_claimed([form.fill(piece) for form in forms], members.slice(first, first + piece.num_rows))
            if requests.refused and not form.reads_files:
                raise _changed_input(store, shard)
            yield requests
            first += len(requests)
    if first < len(members):
        raise _changed_input(store, shard)


def _as_claimed(alternatives: Sequence[Requests], members: Members) -> Requests:
    """Choose what was claimed from what rows may ask, which is the same for nearly all of them."""
    for requests in alternatives:
        if b"".join(requests.addresses) == members.addresses:
            return requests
    addresses = members.split()
    rows = zip(*alternatives, strict=True)
    found = [_find(requests, address) for requests, address in zip(rows, addresses, strict=True)]
    tails = [b"" if isinstance(request, Unsendable) else request.params for request in found]
    refused = {place: request for place, request in enumerate(found) if isinstance(request, Unsendable)}
    addresses = [address if tail else b"" for address, tail in zip(addresses, tails, strict=True)]
    return Requests(b"", tails, addresses, refused)


def _find(requests: Iterable[Request | Unsendable], address: bytes) -> Request | Unsendable:
    for request in requests:
        if isinstance(request, Request) and request.address == address:
            return request
    return CHANGED


def uploading(chunks: Iterable[bytes], shard: Shard, *, size: int) -> Iterator[bytes]:
    """Tell how much of a body has left, after each of its chunks."""
    sent = 0
    for chunk in chunks:
        yield chunk
        sent += len(chunk)
        told = {"requests": shard.requests, "sent": sent, "bytes": size}
        tell("batch.uploading", job_id=shard.job_id, shard=shard.shard, **told)


def _changed_input(store: Store, shard: Shard) -> StoreError:
    return StoreError(f"{store.input_path(shard.job_id)} was changed after it was planned. Submit anew.")


def _pick(batch: pa.RecordBatch, first: int, members: Members) -> pa.RecordBatch:
    low, high = np.searchsorted(members.rows, [first, first + batch.num_rows])
    return batch if high - low == batch.num_rows else batch.take(int64_array(members.rows[low:high] - first))
