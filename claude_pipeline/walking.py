"""The answers of one shard, in the order of its rows."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from claude_pipeline.arrays import make_array, repeated
from claude_pipeline.errors import StoreError
from claude_pipeline.parquets import open_parquet, row_bytes, rows_within
from claude_pipeline.prompts import ID_BYTES
from claude_pipeline.records import Shard
from claude_pipeline.results import MISSING_MESSAGE, RESULT_FIELDS, RESULT_SCHEMA
from claude_pipeline.shards import Members, Rows
from claude_pipeline.store import Store

_BEFORE = [pa.field("custom_id", pa.string())]
_AFTER = [pa.field("batch_id", pa.string()), pa.field("attempts", pa.int64())]
# What every answer says, and the same with the line that it came in, where the store keeps it.
ANSWER_SCHEMA = pa.schema([*_BEFORE, *RESULT_FIELDS, *_AFTER])
LINE_SCHEMA = pa.schema([*_BEFORE, *RESULT_SCHEMA, *_AFTER])
Piece = tuple[Rows, pa.RecordBatch]


def nulls(length: int, schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch that says nothing."""
    return pa.record_batch([pa.nulls(length, field.type) for field in schema], schema=schema)


class Walk:
    """A shard's answers, handed out in the order of its rows.

    Attributes:
        row_bytes: About how much memory one takes.
    """

    def __init__(self, shard: Shard, members: Members, file: pq.ParquetFile | None, schema: pa.Schema) -> None:
        self._shard, self._members, self._schema = shard, members, schema
        columns = schema.names[len(_BEFORE) : -len(_AFTER)]
        if shard.stream_id:
            columns.append("attempts")
        self.row_bytes = row_bytes(file, set(columns)) if file else 1
        size = rows_within(self.row_bytes)
        self._batches = file.iter_batches(batch_size=size, columns=columns, use_threads=False) if file else iter(())
        self._rest: pa.RecordBatch | None = None
        self._at = 0

    def until(self, stop: int) -> Piece | None:
        """Hand out the answers of the rows before `stop` that were not handed out yet."""
        end = int(np.searchsorted(self._members.rows, stop))
        start, self._at = self._at, max(self._at, end)
        if end <= start:
            return None
        addresses = self._members.addresses[start * ID_BYTES : end * ID_BYTES]
        results = self._read(end - start)
        return self._members.rows[start:end], self.answers(addresses, results, count=end - start)

    def answers(self, addresses: bytes, results: pa.RecordBatch | None, *, count: int) -> pa.RecordBatch:
        """Put the columns together; without results they say no more than who is asked, or what is gone."""
        shard = self._shard
        if results is None:
            known = _known(shard) if shard.state == "collected" and shard.reason else {}
            columns = [repeated(known.get(field.name), field.type, count) for field in self._schema]
            return pa.record_batch([_hex(addresses), *columns[1:]], schema=self._schema)
        batch_ids = repeated(shard.batch_id, pa.string(), count)
        marked = _mark_missing(results, shard) if shard.missing_from else results
        columns = list(marked.columns)
        attempts = columns.pop() if shard.stream_id else repeated(shard.attempt, pa.int64(), count)
        return pa.record_batch([_hex(addresses), *columns, batch_ids, attempts], schema=self._schema)

    def positions(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the results in batches, each with the position of its first."""
        at = 0
        for batch in self._batches:
            yield at, batch
            at += batch.num_rows

    def _read(self, count: int) -> pa.RecordBatch | None:
        parts = []
        while count:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                return None
            parts.append(batch[:count])
            self._rest = batch[count:] if batch.num_rows > count else None
            count -= parts[-1].num_rows
        return pa.concat_batches(parts)


@contextmanager
def open_walk(store: Store, shard: Shard, schema: pa.Schema) -> Iterator[Walk]:
    """Open the answers of a shard, with the columns of a schema.

    Raises:
        StoreError: The results are missing, damaged, or lack the lines that are asked for.
    """
    path = store.results_path(shard.results_id)
    with ExitStack() as stack:
        file = stack.enter_context(open_parquet(path)) if shard.has_results else None
        if file and "line" in schema.names and "line" not in file.schema_arrow.names:
            raise StoreError(f"{path} lacks the lines of its results. Bring it back from a backup, or submit anew.")
        yield Walk(shard, store.ledger.members(shard.shard), file, schema)


def _known(shard: Shard) -> dict[str, object]:
    """Say what became of a shard that has no results: it was not sent, or is gone."""
    if shard.batch_id is None:
        return {"error_type": "changed_input", "error_message": shard.reason}
    gone: dict[str, object] = {"result_type": "errored", "cost_usd": 0.0, "error_type": "gone"}
    return gone | {"error_message": shard.reason, "batch_id": shard.batch_id, "attempts": shard.attempt}


def _mark_missing(results: pa.RecordBatch, shard: Shard) -> pa.RecordBatch:
    """Say of rows that were asked again why, beside what they came to."""
    at = results.schema.get_field_index("error_message")
    mark = MISSING_MESSAGE.format(batch_ids=shard.missing_from)
    words = [f"{message} {mark}" if message else mark for message in results.column(at).to_pylist()]
    return results.set_column(at, "error_message", make_array(words, pa.string()))


def _hex(addresses: bytes) -> pa.Array:
    width = 2 * ID_BYTES
    offsets = np.arange(0, len(addresses) * 2 + 1, width, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(addresses.hex().encode())]
    return pa.StringArray.from_buffers(len(offsets) - 1, buffers[1], buffers[2])
