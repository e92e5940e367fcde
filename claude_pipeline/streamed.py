"""A row and its streamed answer, and the rows of a run: which are known already, and which are to come."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import msgspec
import pyarrow as pa

from claude_pipeline.answering import Answered
from claude_pipeline.arrays import make_array
from claude_pipeline.derived import Derived, mark_invalid
from claude_pipeline.joining import join
from claude_pipeline.pricing import LIST_PRICE, PriceList
from claude_pipeline.records import JobRecord
from claude_pipeline.results import decode_lines
from claude_pipeline.settings import Settings
from claude_pipeline.store import Store
from claude_pipeline.walking import ANSWER_SCHEMA, LINE_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedRow:
    """A row of the input, and what its request came to: the columns of an answer, and how fast it came.

    Attributes:
        row: Its position in the input, from 0.
        input: Its cells by column, an index without a name left out.
        result_type: `succeeded` or `errored`; None if it was not sent, or is answered elsewhere (`is_in_progress`).
        output: Its typed columns, those of `output_schema` and the like.
        cost_usd: Dollars, at list price; 0 on duplicates and on answers that the store already had.
        batch_id: The Message Batch that it is answered in, if it is.
        attempts: How often it was asked.
        seconds_to_first_token: From asking to the first piece of the answer; None if it was not asked now.
        tokens_per_second: Of the answer, from its first piece on.
    """

    row: int
    input: dict[str, Any]
    custom_id: str | None = None
    result_type: str | None = None
    response: str | None = None
    output: dict[str, Any]
    stop_reason: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cost_usd: float | None = None
    error_type: str | None = None
    error_message: str | None = None
    request_id: str | None = None
    batch_id: str | None = None
    attempts: int | None = None
    seconds_to_first_token: float | None = None
    tokens_per_second: float | None = None

    @property
    def is_in_progress(self) -> bool:
        """Whether the row waits for an answer that was asked elsewhere."""
        return self.result_type is None and self.error_type is None


_INDEX = re.compile(r"__index_level_\d+__")  # a column without a name of its own, which pandas has made
_CELLS = [field.name for field in fields(StreamedRow) if field.name in ANSWER_SCHEMA.names]


class _Line(msgspec.Struct):
    custom_id: str
    attempts: int


class Rows:
    """The rows of a job while it is streamed, which fit into memory.

    Attributes:
        known: Those that need no asking, each when its time comes.
    """

    def __init__(self, store: Store, job: JobRecord) -> None:
        self._store, self._job = store, job
        self._derived = Derived(Settings.of(job).answers)
        self._prices = PriceList(datetime.now(UTC), store=store.path, share=LIST_PRICE)
        self._batches: list[pa.RecordBatch] = []
        self._starts: list[int] = []
        self._waiting: dict[bytes, list[int]] = {}
        self.known = [*self._read()]

    def _read(self) -> Iterator[StreamedRow]:
        first = 0
        schema = LINE_SCHEMA if self._derived.needs_lines else ANSWER_SCHEMA
        for rows, answers in join(self._store, self._job, schema=schema):
            self._batches.append(rows)
            self._starts.append(first)
            for row, (cells, output) in enumerate(self._cells(answers), first):
                if cells["result_type"] is None and cells["error_type"] is None and cells["custom_id"]:
                    self._waiting.setdefault(bytes.fromhex(cells["custom_id"]), []).append(row)
                else:
                    free = {"cost_usd": None if cells["cost_usd"] is None else 0.0}
                    yield StreamedRow(row=row, input=self.cells_of(row), output=output, **cells | free)
            first += rows.num_rows

    def _cells(self, answers: pa.RecordBatch) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        arrays, errors = self._derived.derive(answers)
        told = mark_invalid(answers, errors)
        known = zip(*(told.column(name).to_pylist() for name in _CELLS), strict=True)
        names = [field.name for field in self._derived.fields]
        derived = zip(*(array.to_pylist() for array in arrays), strict=True) if arrays else [()] * answers.num_rows
        for cells, output in zip(known, derived, strict=True):
            yield dict(zip(_CELLS, cells, strict=True)), dict(zip(names, output, strict=True))

    def cells_of(self, row: int) -> dict[str, Any]:
        """Return the input's cells of a row."""
        place = bisect_right(self._starts, row) - 1
        cells = self._batches[place].slice(row - self._starts[place], 1).to_pylist()[0]
        return {name: cell for name, cell in cells.items() if not _INDEX.fullmatch(name)}

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(batch.num_rows for batch in self._batches)

    def elsewhere(self, asked: set[bytes]) -> Iterator[StreamedRow]:
        """Yield the rows whose request nobody asks now: a batch has it, or another run."""
        addresses = self._waiting.keys() - asked
        claims = self._store.ledger.claims(self._job.account, addresses)
        batches = {number: self._store.ledger.shard(number).batch_id for number in {c.shard for c in claims.values()}}
        for address in addresses:
            batch_id = batches[claims[address].shard] if address in claims else None
            for row in self._waiting.pop(address):
                yield StreamedRow(
                    row=row, input=self.cells_of(row), output={}, custom_id=address.hex(), batch_id=batch_id
                )

    def cost_usd(self, answer: Answered) -> float | None:
        """Return what an answer has cost in dollars; None without a known price."""
        cost: float | None = self._decode(answer.line).column("cost_usd")[0].as_py()
        return cost

    def _decode(self, line: bytes) -> pa.RecordBatch:
        return decode_lines([line], self._prices).batch

    def answered(self, answer: Answered) -> Iterator[StreamedRow]:
        """Yield the rows that an answer is for; the first one paid."""
        told = msgspec.json.decode(answer.line, type=_Line)
        columns = [
            make_array([told.custom_id], pa.string()),
            *self._decode(answer.line).columns,
            make_array([None], pa.string()),
            make_array([told.attempts], pa.int64()),
        ]
        batch = pa.record_batch(columns, schema=LINE_SCHEMA)
        ((cells, output),) = self._cells(batch)
        speed = answer.seconds_to_first_token, answer.tokens_per_second
        first, *others = self._waiting.pop(bytes.fromhex(told.custom_id))
        for row, cost in chain([(first, cells["cost_usd"])], ((row, 0.0) for row in others)):
            yield StreamedRow(
                row=row,
                input=self.cells_of(row),
                output=output,
                **cells | {"cost_usd": cost},
                seconds_to_first_token=speed[0],
                tokens_per_second=speed[1],
            )
