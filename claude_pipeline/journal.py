"""The journal of a stream: each answer is on disk before anybody hears of it, and becomes the shard's results.

Its lines are those of a batch's results, so that everything that reads answers reads these as well.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from claude_pipeline.arrays import int64_array
from claude_pipeline.files import cannot_write
from claude_pipeline.leases import LeaseLostError
from claude_pipeline.logs import tell
from claude_pipeline.outcomes import Outcome, typed_by
from claude_pipeline.places import Place, RemotePath
from claude_pipeline.pricing import LIST_PRICE, PriceList
from claude_pipeline.records import STREAMING, WANTING_JOBS, Shard
from claude_pipeline.results import RESULT_SCHEMA, WRITING, decode
from claude_pipeline.settings import Settings
from claude_pipeline.shards import Members
from claude_pipeline.spooling import Spool
from claude_pipeline.store import Store

STREAM_SCHEMA = RESULT_SCHEMA.append(pa.field("attempts", pa.int64()))
_AT_ONCE = 8
_CANCELED = {"result": {"type": "canceled"}}


class Journal(Protocol):
    """The journal of a run, for several threads."""

    def add(self, line: bytes) -> None:
        """Keep a line for good; after the end of the run it comes too late.

        Raises:
            StoreError: It is not taken.
        """

    def close(self) -> None:
        """Take no more."""


def open_journal(store: Store, stream_id: str) -> Journal:
    """Open the journal of a stream to add to it."""
    place = store.journal_path(stream_id)
    return _Objects(place) if isinstance(place, RemotePath) else _File(place, mode=store.file_mode)


class _File:
    """A file that lines are appended to."""

    def __init__(self, path: Path, *, mode: int) -> None:
        self._folder, self._lock = path.parent, threading.Lock()
        try:
            self._file: BinaryIO | None = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode), "ab")
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def add(self, line: bytes) -> None:
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.write(line + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise cannot_write(self._folder, error) from error

    def close(self) -> None:
        with self._lock:
            file, self._file = self._file, None
            if file:
                file.close()


class _Objects:
    """An object a line, since nothing is appended to an object: what was answered outlives this machine as well."""

    def __init__(self, place: RemotePath) -> None:
        self._place, self._is_open = place, True

    def add(self, line: bytes) -> None:
        if self._is_open:
            (self._place / f"{token_hex(8)}.jsonl").write_bytes(line + b"\n")

    def close(self) -> None:
        self._is_open = False


class _Line(msgspec.Struct):
    custom_id: str
    attempts: int = 0


_decode_line = msgspec.json.Decoder(_Line).decode


def end_stream(store: Store, shard: Shard) -> None:
    """Make what a streamed shard has answered its results; whoever asks for the rest may claim it.

    If jobs of batches have come to wait for the rest, it is planned for them. Of several processes that end the same
    shard one does.

    Raises:
        StoreError: The store cannot be written.
    """
    ledger = store.ledger
    members = ledger.members(shard.shard)
    try:
        outcome = _write_results(store, shard, members)
    except LeaseLostError:
        return
    with ledger.transaction():
        failed = {position: kind for position, (kind, _) in outcome.unanswered.items()}
        jobs = ledger.waiting_jobs(shard.shard, WANTING_JOBS)
        is_wanted = any(Settings.of(job).mode == "batch" for job in jobs)
        left = {} if is_wanted else failed
        if not ledger.move(shard.shard, STREAMING, owned_by=shard.owner, **outcome.recorded(left)):
            return
        named = {"job_id": shard.job_id, "shard": shard.shard, "stream_id": shard.stream_id}
        tell("stream.collected", **named, **outcome.told())
        ledger.record_usage(shard.shard, outcome.spending.models.values())
        ledger.fail(shard, members, left)
        if is_wanted and failed:
            ledger.split_off(shard, members, sorted(failed), attempt=shard.attempt)
    _remove(store.journal_path(shard.stream_id or ""))


def _remove(journal: Place) -> None:
    for part in journal.below() if isinstance(journal, RemotePath) else [journal]:
        part.unlink(missing_ok=True)


def _write_results(store: Store, shard: Shard, members: Members) -> Outcome:
    stream_id = shard.stream_id or ""
    prices = PriceList(datetime.now(UTC), store=store.path, share=LIST_PRICE)
    outcome = Outcome(prices, typed_by(Settings.of(store.ledger.planner_of(shard)).answers))
    with store.spool() as file, store.replacing(store.results_path(stream_id)) as path:
        spool, attempts = _spool(store.journal_path(stream_id), members, file)
        with pq.ParquetWriter(path, STREAM_SCHEMA, **WRITING) as writer:
            first = 0
            for decoded in decode(file, spool, prices):
                stop = first + decoded.batch.num_rows
                columns = [*decoded.batch.columns, int64_array(attempts[first:stop])]
                writer.write_batch(pa.record_batch(columns, schema=STREAM_SCHEMA))
                outcome.add(first, decoded)
                first = stop
        if store.ledger.shard(shard.shard).state not in STREAMING:  # who ended it has removed the journal
            raise LeaseLostError
    return outcome


def _spool(journal: Place, members: Members, file: BinaryIO) -> tuple[Spool, npt.NDArray[np.int64]]:
    """Copy the lines that are whole; a request without one was canceled."""
    positions = {address.hex(): position for position, address in enumerate(members.split())}
    spool = Spool(np.zeros(len(members), dtype=np.int64), np.zeros(len(members), dtype=np.int32))
    attempts = np.zeros(len(members), dtype=np.int64)
    offset = 0
    for line in _whole_lines(journal):
        told = _decode_line(line)
        position = positions[told.custom_id]
        spool.offsets[position], spool.lengths[position] = offset, len(line)
        attempts[position] = told.attempts
        offset += file.write(line)
    canceled = msgspec.json.encode(_CANCELED)
    for position in sorted(spool.missing):
        spool.offsets[position], spool.lengths[position] = offset, len(canceled)
        offset += file.write(canceled)
    file.flush()
    return spool, attempts


def _whole_lines(journal: Place) -> Iterator[bytes]:
    """Yield the lines of a journal; a last one without an end was being written when the process was killed."""
    if isinstance(journal, RemotePath):
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            yield from threads.map(RemotePath.read_bytes, journal.below())
    elif journal.exists():
        with journal.open("rb") as lines:
            yield from (line for line in lines if line.endswith(b"\n"))
