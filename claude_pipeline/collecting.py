"""Collecting batches that ended: their lines become a file, and who has no answer is asked again or marked."""

from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from claude_pipeline.batches import Batch, BatchesApi
from claude_pipeline.errors import ResultsError
from claude_pipeline.files import replacing
from claude_pipeline.leases import renewed
from claude_pipeline.planning import Settings
from claude_pipeline.pricing import PriceList
from claude_pipeline.records import ENDED, FAILED, WANTING_JOBS, Shard
from claude_pipeline.results import RESULT_SCHEMA, Decoded, Spool, Verdict, decode, spool_lines
from claude_pipeline.sending import block_jobs
from claude_pipeline.shards import Members
from claude_pipeline.store import Store

_FETCHES = 3
_CANCELED_ELSEWHERE = "Batch {batch_id} was canceled, but not by this job. `resume` asks its canceled rows again."

_GONE = (
    "Batch {batch_id} is gone: the API keeps its results no more. `resume` asks its {requests:,} requests again, "
    "and pays for them again."
)


def collect(store: Store, api: BatchesApi, shard: Shard, batch: Batch, *, owner: str) -> None:
    """Fetch the results of a shard that ended, write them, and decide on every row without an answer.

    A file that does not agree with what was sent is fetched three times; then the jobs that wait for it are blocked.

    Raises:
        ApiError: The results could not be fetched; nothing was recorded.
        StoreError: They could not be written.
    """
    ledger = store.ledger
    if not ledger.lease(shard, owner=owner, to="ended"):
        return
    members = ledger.members(shard.shard)
    try:
        with renewed(lambda: ledger.renew(shard.shard, owner=owner)), store.spool() as file:
            outcome = _fetch(store, api, batch, members, file)
            _record(store, shard, members, outcome, owner=owner)
    except ResultsError as error:
        reason = f"Batch {shard.batch_id}: {error} `resume` fetches them again."
        ledger.move(shard.shard, ENDED, owned_by=owner, reason=reason)
        block_jobs(store, shard, reason)
    finally:
        ledger.move(shard.shard, ENDED, owned_by=owner, owner=None)


def _fetch(store: Store, api: BatchesApi, batch: Batch, members: Members, file: BinaryIO) -> "_Outcome":
    error = ResultsError("Nothing was fetched.")
    for _ in range(_FETCHES):
        file.seek(0)
        file.truncate()
        with api.results(batch.id, batch.results_url) as chunks:
            try:
                return _write_results(store, batch, members, file, spool_lines(chunks, members, file))
            except ResultsError as found:
                error = found
    raise error


@dataclass(slots=True)
class _Outcome:
    """What a batch came to: `unanswered` says for a position what it came to instead, and the verdict on that."""

    tallies: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    cost_usd: float | None = 0.0
    unanswered: dict[int, tuple[str, Verdict]] = field(default_factory=dict)
    account_message: str = ""

    def add(self, first: int, decoded: Decoded) -> None:
        """Count a run of results whose first stands at a position of the shard."""
        types = decoded.batch.column("result_type").to_pylist()
        self.tallies.update(types)
        for position, (verdict, result_type) in enumerate(zip(decoded.verdicts, types, strict=True), first):
            if verdict != "succeeded":
                self.unanswered[position] = result_type, verdict
            if verdict == "account":
                self.account_message = decoded.batch.column("error_message")[position - first].as_py()
        self._add_usage(decoded.batch)

    def positions(self, verdict: Verdict) -> list[int]:
        """List the requests that were judged so."""
        return [position for position, (_, judged) in self.unanswered.items() if judged == verdict]

    def _add_usage(self, batch: pa.RecordBatch) -> None:
        for column in ("input_tokens", "output_tokens"):
            self.tokens[column] += pc.sum(batch.column(column)).as_py() or 0
        unknown = batch.column("cost_usd").null_count
        spent = pc.sum(batch.column("cost_usd")).as_py() or 0.0
        self.cost_usd = None if unknown or self.cost_usd is None else self.cost_usd + spent


def _write_results(store: Store, batch: Batch, members: Members, file: BinaryIO, spool: Spool) -> _Outcome:
    outcome = _Outcome()
    first = 0
    prices = PriceList(batch.created_at)
    with (
        replacing(store.results_path(batch.id)) as path,
        pq.ParquetWriter(path, RESULT_SCHEMA, compression="zstd", compression_level=1) as writer,
    ):
        for decoded in decode(file, spool, prices):
            writer.write_batch(decoded.batch)
            outcome.add(first, decoded)
            first += decoded.batch.num_rows
        _check_counts(batch, members, outcome.tallies)
    return outcome


def _check_counts(batch: Batch, members: Members, tallies: Counter[str]) -> None:
    stated = {kind: count for kind, count in batch.request_counts.items() if count}
    if stated != dict(tallies) or tallies.total() != len(members):
        raise ResultsError(
            f"{len(members):,} requests were sent, {_list(dict(tallies))} came, but it counts {_list(stated)}."
        )


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())) or "nothing"


def _record(store: Store, shard: Shard, members: Members, outcome: _Outcome, *, owner: str) -> None:
    """Turn `ended` into `collected`, once, and move the rows that are asked again, all in one transaction."""
    ledger = store.ledger
    with ledger.transaction():
        retries = _to_ask_again(store, shard, outcome)
        moved = {position for positions in retries.values() for position in positions}
        failed = {position: kind for position, (kind, _) in outcome.unanswered.items() if position not in moved}
        left = Counter(failed.values())
        tallies = {"succeeded": outcome.tallies["succeeded"], **{kind: left[kind] for kind in FAILED}}
        done = {"state": "collected", "owner": None, "reason": None, "cost_usd": outcome.cost_usd}
        if not ledger.move(shard.shard, ENDED, owned_by=owner, **done, **tallies, **outcome.tokens):
            return
        ledger.fail(shard, members, failed)
        for attempt, positions in retries.items():
            ledger.split_off(shard, members, positions, attempt=attempt)
        _block(store, shard, outcome)


def _to_ask_again(store: Store, shard: Shard, outcome: _Outcome) -> dict[int, list[int]]:
    """Choose the rows that are asked again by the number of their next attempt."""
    wanting = store.ledger.waiting_jobs(shard.shard, WANTING_JOBS)
    attempts = max((Settings.of(job).limits.max_attempts for job in wanting), default=0)
    unspent = outcome.positions("account")
    if shard.cancel_wanted:  # for a job that wanted it no more; whoever waits by now does
        unspent = sorted(unspent + outcome.positions("canceled"))
    retries = {
        shard.attempt: unspent if wanting else [],
        shard.attempt + 1: outcome.positions("again") if shard.attempt < attempts else [],
    }
    return {attempt: positions for attempt, positions in retries.items() if positions}


def _block(store: Store, shard: Shard, outcome: _Outcome) -> None:
    if outcome.account_message:
        block_jobs(store, shard, f"{outcome.account_message} Mend the account, then `resume`.")
    if outcome.tallies["canceled"] and not shard.cancel_wanted:
        block_jobs(store, shard, _CANCELED_ELSEWHERE.format(batch_id=shard.batch_id))


def record_gone(store: Store, shard: Shard) -> None:
    """Give up a batch that the API no longer knows: its rows have no answer, and the user decides."""
    ledger = store.ledger
    members = ledger.members(shard.shard)
    with ledger.transaction():
        if ledger.move(shard.shard, (shard.state,), state="collected", errored=len(members), reason="gone"):
            ledger.fail(shard, members, dict.fromkeys(range(len(members)), "errored"))
            block_jobs(store, shard, _GONE.format(batch_id=shard.batch_id, requests=len(members)))
