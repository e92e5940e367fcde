"""The input's rows, in input order, each with what its request came to.

A job's own shards hold results in the order of its input, so most of the join is a walk along both. Rows that are
answered elsewhere (duplicates, other jobs' requests) are located by their claims, and brought into input order on
disk in two sequential passes. Memory stays at a few batches of about 1 MB. Where rows were asked again, the answers of
each asking are laid over those of the one before.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from claude_pipeline.arrays import bool_array, int64_array, repeated, to_int64
from claude_pipeline.foreign import Foreign
from claude_pipeline.parquets import open_parquet, row_bytes, rows_within
from claude_pipeline.prompts import ID_BYTES
from claude_pipeline.records import MAX_AGAIN, JobRecord, Shard
from claude_pipeline.shards import Rows
from claude_pipeline.store import Store
from claude_pipeline.walking import ANSWER_SCHEMA, Piece, Walk, nulls, open_walk

_STEP_BYTES = 1_000_000
_BUCKETS = 1024
_BUCKET_BYTES = 16_000_000
_LOCATED = np.dtype([("row", "<i8"), ("position", "<i8"), ("address", f"V{ID_BYTES}")])


def join(
    store: Store, job: JobRecord, *, schema: pa.Schema = ANSWER_SCHEMA, columns: list[str] | None = None
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Yield the input, or these columns of it, in batches, each with the answers of its rows; null where there is none.

    With `LINE_SCHEMA` the line that an answer came in comes along, unless the store keeps none.
    """
    for _, batch, (first, *later) in _join(store, job, schema, _askings(store, job), columns=columns):
        yield batch, reduce(_lay_over, later, first)


def join_asking(
    store: Store, job: JobRecord, asking: int, columns: set[str], *, schema: pa.Schema = ANSWER_SCHEMA
) -> Iterator[tuple[int, pa.RecordBatch, pa.RecordBatch]]:
    """Yield these columns of the input in batches, each with the number of its first row and the answers of one asking.

    Rows that were not asked then have null.
    """
    for first, batch, (answers,) in _join(store, job, schema, [asking], columns=sorted(columns)):
        yield first, batch, answers


def _askings(store: Store, job: JobRecord) -> list[int]:
    """List which askings of a job there are; it may have been planned anew since the last one."""
    own = {shard.asking for shard in store.ledger.own_shards(job.job_id)}
    return [asking for asking in range(1 + MAX_AGAIN) if not asking or _has(store, job, own, asking)]


def _has(store: Store, job: JobRecord, own: set[int], asking: int) -> bool:
    return asking in own or store.foreign_path(job.job_id, asking=asking).exists()


def _join(
    store: Store, job: JobRecord, schema: pa.Schema, askings: Sequence[int], *, columns: list[str] | None
) -> Iterator[tuple[int, pa.RecordBatch, list[pa.RecordBatch]]]:
    """Yield the input in batches, each with the number of its first row and the answers of each asking."""
    with ExitStack() as stack:
        source = stack.enter_context(open_parquet(store.input_path(job.job_id)))
        sides = [stack.enter_context(_open_side(store, job, schema, asking)) for asking in askings]
        wanted = None if columns is None else set(columns)
        step = rows_within(row_bytes(source, wanted) + sum(side.row_bytes for side in sides), size=_STEP_BYTES)
        first = 0
        for batch in source.iter_batches(batch_size=step, columns=columns, use_threads=False):
            stop = first + batch.num_rows
            yield first, batch, [side.between(first, stop) for side in sides]
            first = stop


class _Side(NamedTuple):
    """The answers of one asking."""

    own: "_OwnAnswers"
    elsewhere: "_Elsewhere"

    @property
    def row_bytes(self) -> int:
        return self.own.row_bytes

    def between(self, first: int, stop: int) -> pa.RecordBatch:
        """Return the answers of the rows from `first` to before `stop`; null where there are none."""
        pieces = [*self.own.until(stop), *self.elsewhere.between(first, stop)]
        return _overlay(pieces, first, stop, self.elsewhere.schema)


@contextmanager
def _open_side(store: Store, job: JobRecord, schema: pa.Schema, asking: int) -> Iterator[_Side]:
    shards = [shard for shard in store.ledger.own_shards(job.job_id) if shard.asking == asking]
    with closing(_OwnAnswers(store, shards, schema)) as own:
        rows_a_bucket = rows_within(own.row_bytes or 1, size=_BUCKET_BYTES)
        with _elsewhere(store, job, asking, schema, rows_a_bucket) as elsewhere:
            yield _Side(own, elsewhere)


def _lay_over(before: pa.RecordBatch, later: pa.RecordBatch) -> pa.RecordBatch:
    """Take the later answer of a row where there is one, with what both have cost and how often both were tried."""
    kinds = later.column("result_type").to_pylist()
    if not any(kinds):
        return before
    rows = np.arange(len(kinds))
    chosen = rows + len(kinds) * np.array([kind == "succeeded" for kind in kinds])
    answers = pa.concat_batches([before, later]).take(int64_array(chosen))
    was_asked = bool_array(np.array([kind is not None for kind in kinds]))
    for name in ("cost_usd", "attempts"):
        at = answers.schema.get_field_index(name)
        both = pc.add(before.column(at), later.column(at))
        answers = answers.set_column(at, answers.schema.field(at), pc.if_else(was_asked, both, before.column(at)))
    return answers


def _overlay(pieces: list[Piece], first: int, stop: int, schema: pa.Schema) -> pa.RecordBatch:
    """Bring answers into the order of rows; where two pieces know a row, the later one does."""
    if len(pieces) == 1 and np.array_equal(pieces[0][0], np.arange(first, stop)):
        return pieces[0][1]
    chosen = np.full(stop - first, -1, dtype=np.int64)
    at = 0
    for rows, answers in pieces:
        chosen[rows - first] = np.arange(at, at + len(rows))
        at += answers.num_rows
    indices = int64_array(chosen, valid=chosen >= 0)
    if not pieces:
        return nulls(len(indices), schema)
    return pa.concat_batches([answers for _, answers in pieces]).take(indices)


class _OwnAnswers:
    """The answers of a job's own shards, each open only while the walk passes its rows."""

    def __init__(self, store: Store, shards: Iterable[Shard], schema: pa.Schema) -> None:
        self._store, self._schema = store, schema
        self._ahead = sorted(shards, key=lambda shard: shard.first_row, reverse=True)
        self._open: dict[int, tuple[int, Walk, ExitStack]] = {}
        self.row_bytes = max((_result_bytes(store, shard, schema) for shard in self._ahead), default=0)

    def until(self, stop: int) -> list[Piece]:
        """Hand out the answers of the rows before `stop`, those of later shards last."""
        while self._ahead and self._ahead[-1].first_row < stop:
            shard = self._ahead.pop()
            stack = ExitStack()
            walk = stack.enter_context(open_walk(self._store, shard, self._schema))
            self._open[shard.shard] = shard.last_row, walk, stack
        pieces = [self._open[number][1].until(stop) for number in sorted(self._open)]
        for number in [number for number, (last_row, _, _) in self._open.items() if last_row < stop]:
            self._open.pop(number)[2].close()
        return [piece for piece in pieces if piece]

    def close(self) -> None:
        """Close what is open."""
        for _, _, stack in self._open.values():
            stack.close()


def _result_bytes(store: Store, shard: Shard, schema: pa.Schema) -> int:
    with open_walk(store, shard, schema) as walk:
        return walk.row_bytes


class _Elsewhere:
    """Answers of rows that no shard of the job asks for, in files by ranges of rows."""

    def __init__(self, folder: Path, rows_a_bucket: int, schema: pa.Schema) -> None:
        self._folder, self._rows_a_bucket, self.schema = folder, rows_a_bucket, schema
        self._loaded: tuple[int, Piece] | None = None

    def add(self, rows: Rows, answers: pa.RecordBatch) -> None:
        """Keep answers in the files of their rows."""
        schema = self.schema.insert(0, pa.field("row", pa.int64()))
        buckets = rows // self._rows_a_bucket
        for bucket in np.unique(buckets).tolist():
            mine = np.flatnonzero(buckets == bucket)
            some = answers.take(int64_array(mine))
            with self._path(bucket).open("ab") as file, pa.ipc.new_stream(file, schema) as stream:
                stream.write_batch(pa.record_batch([int64_array(rows[mine]), *some.columns], schema=schema))

    def between(self, first: int, stop: int) -> Iterator[Piece]:
        """Yield the answers of the rows from `first` to before `stop`."""
        for bucket in range(first // self._rows_a_bucket, (stop - 1) // self._rows_a_bucket + 1):
            rows, answers = self._load(bucket)
            inside = (rows >= first) & (rows < stop)
            if inside.all() and len(rows):
                yield rows, answers
            elif inside.any():
                yield rows[inside], answers.filter(bool_array(inside))

    def _load(self, bucket: int) -> Piece:
        if self._loaded is None or self._loaded[0] != bucket:
            self._loaded = None
            self._loaded = bucket, _read_streams(self._path(bucket), self.schema)
        return self._loaded[1]

    def _path(self, bucket: int) -> Path:
        return self._folder / f"rows-{bucket}.arrows"


def _read_streams(path: Path, schema: pa.Schema) -> Piece:
    batches = []
    if path.exists():
        with path.open("rb") as file:
            size = path.stat().st_size
            while file.tell() < size:
                with pa.ipc.open_stream(file) as stream:
                    batches += list(stream)
    if not batches:
        return np.empty(0, dtype=np.int64), nulls(0, schema)
    whole = pa.concat_batches(batches)
    return to_int64(whole.column(0)), pa.record_batch(whole.columns[1:], schema=schema)


@contextmanager
def _elsewhere(
    store: Store, job: JobRecord, asking: int, schema: pa.Schema, rows_a_bucket: int
) -> Iterator[_Elsewhere]:
    with store.spool_folder() as folder:
        found = _Elsewhere(folder, max(rows_a_bucket, -(-job.rows // _BUCKETS)), schema)
        for shard in _locate(Foreign(store, job, asking=asking), folder, found):
            _bring(store, store.ledger.shard(shard), folder, found)
        yield found


def _locate(foreign: Foreign, folder: Path, found: _Elsewhere) -> list[int]:
    """First pass: sort the rows by the shard that answers them, into files; return the shards."""
    for rows, errors in foreign.unsendable():
        _add_unsendable(errors, rows, found)
    shards: set[int] = set()
    for run in foreign.located():
        located = np.empty(len(run.rows), _LOCATED)
        located["row"], located["position"], located["address"] = run.rows, run.positions, run.addresses
        for shard in set(run.shards.tolist()) - {-1}:
            with (folder / f"shard-{shard}").open("ab") as file_of_shard:
                file_of_shard.write(located[run.shards == shard].tobytes())
            shards.add(shard)
    return sorted(shards)


def _add_unsendable(errors: pa.RecordBatch, rows: Rows, found: _Elsewhere) -> None:
    empty = nulls(len(rows), found.schema)
    columns = {name: errors.column(name) for name in ("error_type", "error_message")}
    arrays = [columns.get(field.name, empty.column(field.name)) for field in found.schema]
    found.add(rows, pa.record_batch(arrays, schema=found.schema))


def _bring(store: Store, shard: Shard, folder: Path, found: _Elsewhere) -> None:
    """Second pass: walk a shard's results, and put the answers that are wanted into the files of their rows."""
    located = np.fromfile(folder / f"shard-{shard.shard}", dtype=_LOCATED)
    located = located[np.argsort(located["position"], kind="stable")]
    with open_walk(store, shard, found.schema) as walk:
        none = True
        for first, batch in walk.positions():
            none = False
            low, high = np.searchsorted(located["position"], [first, first + batch.num_rows])
            some = located[low:high]
            if len(some):
                results = batch.take(int64_array(some["position"] - first))
                found.add(some["row"], _free(_answers_of(some, results, walk)))
        if none:
            found.add(located["row"], _answers_of(located, None, walk))


def _answers_of(located: npt.NDArray[np.void], results: pa.RecordBatch | None, walk: Walk) -> pa.RecordBatch:
    return walk.answers(located["address"].tobytes(), results, count=len(located))


def _free(answers: pa.RecordBatch) -> pa.RecordBatch:
    """Set the cost to nothing: it stands on the row that paid."""
    at = answers.schema.get_field_index("cost_usd")
    return answers.set_column(at, "cost_usd", repeated(0.0, pa.float64(), answers.num_rows))
