"""The rows that a job does not ask itself: another request answers them, or they cannot be sent.

They are written down when the job is planned. What had an answer by then keeps it where it is, so that its place need
not be looked up again, unless that answer was given up or pruned since.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from claude_pipeline.arrays import Flags, Numbers, int64_array, make_record_batch, to_bools, to_int64
from claude_pipeline.files import reading
from claude_pipeline.parquets import open_parquet
from claude_pipeline.prompts import ID_BYTES
from claude_pipeline.records import Claims, JobRecord, Shard
from claude_pipeline.shards import ADDRESS, Rows
from claude_pipeline.store import Store
from claude_pipeline.values import Unsendable

_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("address", pa.binary(ID_BYTES)),
        pa.field("error_type", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("shard", pa.int64()),
        pa.field("position", pa.int64()),
    ]
)
_WRITE_ROWS = 65_536


class ForeignRows:
    """The rows that a job does not ask itself, on their way to a file."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._refused: list[tuple[int, Unsendable]] = []
        self._left: list[pa.RecordBatch] = []

    def refuse(self, row: int, why: Unsendable) -> None:
        """Note a row that cannot be sent."""
        self._refused.append((row, why))
        self._write_many()

    def leave(self, rows: Rows, addresses: npt.NDArray[np.bytes_], answered: Claims | None = None) -> None:
        """Note rows that other requests answer, and the claims on them; -1 where there is no answer yet."""
        for start in range(0, len(rows), _WRITE_ROWS):
            part = slice(start, start + _WRITE_ROWS)
            self._left.append(_left(rows[part], addresses[part], answered and answered.pick(part)))
            self._write_many()

    def _write_many(self) -> None:
        if len(self._refused) + sum(batch.num_rows for batch in self._left) >= _WRITE_ROWS:
            self.write()

    def write(self) -> None:
        """Write what was noted."""
        if self._refused:
            self._left.append(make_record_batch([(row, None, *why, None, None) for row, why in self._refused], _SCHEMA))
        if self._left:
            self._writer.write_table(pa.Table.from_batches(self._left))
        self._refused, self._left = [], []


def _left(rows: Rows, addresses: npt.NDArray[np.bytes_], answered: Claims | None) -> pa.RecordBatch:
    nothing, nobody = pa.nulls(len(rows), pa.string()), pa.nulls(len(rows), pa.int64())
    if answered is None:
        places = [nobody, nobody]
    else:
        known = answered.shards >= 0
        places = [int64_array(some, valid=known) for some in (answered.shards, answered.positions)]
    packed = pa.Array.from_buffers(pa.binary(ID_BYTES), len(rows), [None, pa.py_buffer(addresses.tobytes())])
    return pa.record_batch([int64_array(rows), packed, nothing, nothing, *places], schema=_SCHEMA)


@contextmanager
def write_foreign(store: Store, job: JobRecord) -> Iterator[ForeignRows]:
    """Write the rows of an asking, which take the place of those of an earlier planning."""
    with (
        store.replacing(store.foreign_path(job.job_id, asking=job.asking)) as path,
        pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer,
    ):
        rows = ForeignRows(writer)
        yield rows
        rows.write()


class Located(NamedTuple):
    """A run of rows that other requests answer, and where.

    Attributes:
        addresses: 16 bytes each.
        shards: Whose request it is; -1 where nobody asks any more.
        is_answered: Whether there is an answer.
    """

    rows: Rows
    addresses: npt.NDArray[np.bytes_]
    shards: Numbers
    positions: Numbers
    is_answered: Flags


class Foreign:
    """The rows of one asking that a job does not ask itself, as they were noted."""

    def __init__(self, store: Store, job: JobRecord, *, asking: int = 0) -> None:
        self._store, self._job = store, job
        self._path = store.foreign_path(job.job_id, asking=asking)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if not self._path.exists():
            return
        with reading(self._path), open_parquet(self._path) as file:
            yield from file.iter_batches(use_threads=False)

    def unsendable(self) -> Iterator[tuple[Rows, pa.RecordBatch]]:
        """Yield the rows that cannot be sent, with why in `error_type` and `error_message`."""
        for batch in self._batches():
            some = batch.filter(pc.is_null(batch.column("address")))
            if some.num_rows:
                yield to_int64(some.column("row")), some

    def located(self) -> Iterator[Located]:
        """Yield the rows that other requests answer."""
        for batch in self._batches():
            some = batch.filter(pc.is_valid(batch.column("address")))
            if some.num_rows:
                yield self._locate(some)

    def _locate(self, some: pa.RecordBatch) -> Located:
        rows, addresses = to_int64(some.column("row")), _addresses(some.column("address"))
        shards, positions = _noted(some, "shard"), _noted(some, "position")
        is_answered = self._which(shards, lambda shard: shard.has_results)
        others = np.flatnonzero(~is_answered)
        if len(others):
            claims = self._store.ledger.claims_on(self._job.account, addresses[others])
            shards[others], positions[others] = claims.shards, claims.positions
            is_collected = self._which(claims.shards, lambda shard: shard.state == "collected")
            is_answered[others] = is_collected & claims.stand
        return Located(rows, addresses, shards, positions, is_answered)

    def _which(self, shards: Numbers, are: Callable[[Shard], bool]) -> Flags:
        """Tell which of these shards are so; nobody's is not."""
        named = [shard for shard in np.unique(shards).tolist() if shard >= 0]
        return np.isin(shards, [shard for shard in named if are(self._store.ledger.shard(shard))])


def _addresses(column: pa.Array) -> npt.NDArray[np.bytes_]:
    every = np.frombuffer(column.buffers()[1], dtype=ADDRESS)
    return every[column.offset : column.offset + len(column)]


def _noted(some: pa.RecordBatch, name: str) -> Numbers:
    """Return what was noted of rows; -1 where nothing was, as in files of earlier versions."""
    if name not in some.schema.names or some.column(name).null_count == some.num_rows:
        return np.full(some.num_rows, -1, dtype=np.int64)
    column = some.column(name)
    return np.where(to_bools(column.is_valid()), to_int64(column), -1)
