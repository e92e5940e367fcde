"""A batch that no ledger knows: from its results alone to a job that has ended.

Results name the address of each request and what it was answered, which is all that a store needs of it to answer the
same request again. They do not say what was asked.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from claude_pipeline.arrays import Flags, int64_array
from claude_pipeline.batches import BatchesApi
from claude_pipeline.collecting import FETCHES, prices_of, write_results
from claude_pipeline.display import plural
from claude_pipeline.errors import ResultsError
from claude_pipeline.outcomes import Outcome
from claude_pipeline.parquets import open_parquet
from claude_pipeline.prompts import RequestForm
from claude_pipeline.records import PLANNING, JobRecord
from claude_pipeline.settings import Limits, Settings
from claude_pipeline.shards import MAX_BYTES, MAX_REQUESTS, Members, address_of
from claude_pipeline.spooling import Spool, spool_whole
from claude_pipeline.starting import name_job
from claude_pipeline.store import Store
from claude_pipeline.wire import Batch

NAME: Final = "recovered"
_TELLING_UUIDS = 4  # so many ids of ours that look like UUIDs by chance are one in 17 million
_UNKNOWN_FORM = RequestForm(header=b"", betas=(), salt_column=None, parts=(b"",))
_LINE_FIELD = pa.field("line", pa.int64())


class _Result(msgspec.Struct, gc=False):
    type: str


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    result: _Result


_decode_line = msgspec.json.Decoder(_Line).decode


class Lines(NamedTuple):
    """The results of a batch in a spool file: those that were answered first, each group by its addresses."""

    members: Members
    spool: Spool
    answered: int

    @property
    def answered_addresses(self) -> list[bytes]:
        """List the addresses that have an answer, in the order of the members."""
        return self.members.split()[: self.answered]


def read_lines(chunks: Iterable[bytes], file: BinaryIO) -> Lines | None:
    """Write result lines to a file, and put them in order; None as soon as one shows that they are not ours.

    Raises:
        ResultsError: Lines are doubled or garbled.
    """
    found: list[tuple[bool, bytes, int, int]] = []
    for offset, line in _placed(spool_whole(chunks, file)):
        try:
            told = _decode_line(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ResultsError(f"A result line is not what the API documents ({error}): {line[:80]!r}") from error
        if not (address := address_of(told.custom_id)):
            return None
        found.append((told.result.type != "succeeded", address, offset, len(line)))
    found.sort()
    addresses = [address for _, address, _, _ in found]
    if len(set(addresses)) < len(addresses):
        raise ResultsError("Some of its results came twice.")
    if _are_uuids(addresses):
        return None
    return _in_order(found, addresses)


def _placed(runs: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield each line with its offset in the file; blank ones are none."""
    for first, lines in runs:
        offset = first
        for line in lines.split(b"\n"):
            if line.strip():
                yield offset, line
            offset += len(line) + 1


def is_ours(line: bytes) -> bytes | None:
    """Return the address that a result line is for, if it can be one of ours."""
    try:
        custom_id = _decode_line(line).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return address_of(custom_id)


def _are_uuids(addresses: list[bytes]) -> bool:
    """Tell whether ids are random UUIDs, which other programs use: they have 32 such characters as well."""
    alike = all(address[6] >> 4 == 4 and address[8] >> 6 == 2 for address in addresses)  # noqa: PLR2004  RFC 9562
    return alike and len(addresses) >= _TELLING_UUIDS


def _in_order(found: list[tuple[bool, bytes, int, int]], addresses: list[bytes]) -> Lines:
    members = Members(b"".join(addresses), np.arange(len(found), dtype=np.int64))
    offsets = np.array([offset for _, _, offset, _ in found], dtype=np.int64)
    lengths = np.array([length for _, _, _, length in found], dtype=np.int32)
    return Lines(members, Spool(offsets, lengths), sum(not unanswered for unanswered, _, _, _ in found))


def fetch_lines(api: BatchesApi, batch: Batch, file: BinaryIO, *, settled: bool) -> Lines | None:
    """Fetch the results of a batch, thrice if they are not what the API counts; None if they are not ours.

    Lines that stay away are lost once nothing more can come, which is when `settled`.

    Raises:
        ApiError: They cannot be fetched.
        ResultsError: They do not agree with what the API counts.
    """
    for left in reversed(range(FETCHES)):
        file.seek(0)
        file.truncate()
        with api.results(batch.id, batch.results_url) as body:
            try:
                lines = read_lines(body.chunks, file)
            except ResultsError:
                if not left:
                    raise
                continue
        absent = 0 if lines is None else batch.requests - len(lines.members)
        if lines is None or not absent or (not left and settled and body.is_framed and len(lines.members)):
            return lines
    raise ResultsError(
        f"The API counts {plural(batch.requests, 'request')}, but {plural(absent, 'line')} did not come."
    )


@dataclass(frozen=True, slots=True)
class Read:
    """The results of a batch as a file that is still to be the store's.

    Attributes:
        costs: What each answer had cost in dollars, NaN without a known price.
    """

    path: Path
    batch: Batch
    lines: Lines
    outcome: Outcome
    costs: npt.NDArray[np.float64]
    models: list[str]

    def usd(self, chosen: Flags) -> float | None:
        """Add up what some of the answers had cost."""
        total = float(self.costs[chosen].sum())
        return None if np.isnan(total) else total


def write_lines(store: Store, batch: Batch, lines: Lines, file: BinaryIO, folder: Path) -> Read:
    """Write results in the order of the members to a file in a folder.

    Raises:
        ResultsError: A line is not a result.
        InputError: A file of the user's own prices cannot be used.
    """
    outcome, path = Outcome(prices_of(store, batch)), folder / "results.parquet"
    path.touch(store.file_mode)
    write_results(path, file, lines.spool, outcome, batch_id=batch.id)
    with open_parquet(path) as written:
        table = written.read(["cost_usd", "model"])
    costs = np.asarray(table["cost_usd"].to_numpy(), dtype=np.float64)[: lines.answered]
    models = sorted({model for model in table["model"].unique().to_pylist() if model})
    return Read(path, batch, lines, outcome, costs, models)


def job_of(store: Store, account: int, batch_id: str) -> str:
    """Name the job that shows a recovered batch."""
    return name_job([store.ledger.account_name(account), NAME, batch_id])


def keep_input(store: Store, job_id: str, read: Read) -> None:
    """Write what takes the place of the input: which line of the results, counted from 1."""
    path = read.path.with_name("input.parquet")
    path.touch(store.file_mode)
    numbers = int64_array(np.arange(1, len(read.lines.members) + 1, dtype=np.int64))
    pq.write_table(pa.table([numbers], schema=pa.schema([_LINE_FIELD])), path)
    store.keep_input(path, job_id)


def record(store: Store, account: int, read: Read, *, base_url: str | None) -> None:
    """Make a batch a job that has ended, with a shard that is collected; it is part of the caller's transaction.

    Its dollars were spent when it ran, so that is when they count. To prune it is as young as the recovery is: whoever
    recovers is about to submit what needs it.
    """
    ledger, batch, requests = store.ledger, read.batch, len(read.lines.members)
    job_id = job_of(store, account, batch.id)
    created_at = batch.created_at.timestamp()
    ended_at = (batch.ended_at or batch.created_at).timestamp()
    limits = Limits(MAX_REQUESTS, MAX_BYTES, MAX_REQUESTS, 1)
    models = ", ".join(read.models) or "-"
    settings = Settings(batch.id, _UNKNOWN_FORM, models, None, "", base_url, limits, mode=NAME)
    ledger.add_job(job_id, account=account, name=NAME, settings=settings, rows=requests)
    times = {"created_at": created_at, "ended_at": ended_at}
    counts = {"requests": requests, "unanswered": requests - read.lines.answered}
    reason = "Read back from the API. It was paid for when it ran, not now."
    ledger.move_job(job_id, PLANNING, owned_by=None, state="ended", reason=reason, **times, **counts)
    failed = {position: kind for position, (kind, _) in read.outcome.unanswered.items()}
    changes = read.outcome.recorded(failed) | times | {"batch_id": batch.id}
    job = ledger.job(job_id)
    assert isinstance(job, JobRecord)  # noqa: S101 - it was added above
    shard = ledger.add_collected(
        job, read.lines.members, answered=read.lines.answered, collected_at=ended_at, **changes
    )
    ledger.record_usage(shard, read.outcome.spending.models.values())
