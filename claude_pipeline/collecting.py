"""Collecting batches that ended: their lines become a file, and who has no answer is asked again or marked."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

from claude_pipeline.arrays import give_back
from claude_pipeline.batches import RESULTS_SETTLE_SECONDS, BatchesApi
from claude_pipeline.derived import Derived
from claude_pipeline.errors import ResultsError
from claude_pipeline.leases import LeaseLostError, renewed
from claude_pipeline.logs import tell
from claude_pipeline.outcomes import Outcome, typed_by
from claude_pipeline.pricing import PriceList
from claude_pipeline.records import COLLECTED, ENDED, OPEN_JOBS, WANTING_JOBS, Shard
from claude_pipeline.results import RESULT_SCHEMA, WRITING, decode
from claude_pipeline.sending import block_jobs, traced
from claude_pipeline.settings import Settings
from claude_pipeline.shards import Members
from claude_pipeline.spooling import Spool, spool_lines
from claude_pipeline.store import Store
from claude_pipeline.traces import span
from claude_pipeline.wire import Batch

FETCHES = 3
_SHORTEST_PAUSE = 15.0

_CANCELED_ELSEWHERE = "Batch {batch_id} was canceled, but not by this job. `resume` asks its canceled rows again."

_LOST = "The results of {results} were lost from the store, and given up."
_GONE = "{gone} `resume` asks its {requests:,} requests again, and pays for them again."


def collect(store: Store, api: BatchesApi, shard: Shard, batch: Batch, *, owner: str) -> None:
    """Fetch the results of a shard that ended, write them, and decide on every row without an answer.

    A file that does not agree with what was sent is fetched three times. If nothing is wrong but that lines stay
    away, they may come late, and the shard is put off; once ten minutes have passed since the end of the batch the rows
    of those that every fetch lacked are missing. In every other case the jobs that wait for it are blocked.

    Raises:
        ApiError: The results could not be fetched; nothing was recorded.
        InputError: A file of the user's own prices cannot be used; nothing was recorded.
        StoreError: They could not be written.
    """
    ledger = store.ledger
    if not ledger.lease(shard, owner=owner, to="ended"):
        return
    members = ledger.members(shard.shard)
    unsettled = api.seconds_until_settled(batch, default=ledger.now())
    try:
        with (
            span("collect", batch_id=batch.id, **traced(store, shard)) as opened,
            renewed(lambda: ledger.renew(shard.shard, owner=owner)),
            store.spool() as file,
        ):
            typed = typed_by(Settings.of(ledger.planner_of(shard)).answers)
            fetches = _Fetches(store, api, batch, members, typed, may_lack=unsettled <= 0)
            outcome = fetches.run(file, held=partial(ledger.renew, shard.shard, owner=owner))
            _record(store, shard, members, outcome, owner=owner)
            opened.note(**outcome.traced())
    except ResultsError as error:
        if error.missing and unsettled > 0:
            _put_off(store, shard, error, unsettled=unsettled, owner=owner)
        else:
            _record_disagreement(store, shard, error, owner=owner)
    except LeaseLostError:
        return
    finally:
        ledger.move(shard.shard, ENDED, owned_by=owner, owner=None)


def _record_disagreement(store: Store, shard: Shard, error: ResultsError, *, owner: str) -> None:
    """Let the user decide, whether the job goes on or is being canceled."""
    reason = f"Batch {shard.batch_id}: {error} `resume` fetches them again."
    with store.ledger.transaction():
        if store.ledger.move(shard.shard, ENDED, owned_by=owner, reason=reason):
            tell("batch.disagrees", **_named(shard), reason=str(error))
            block_jobs(store, shard, reason, states=OPEN_JOBS)


def _named(shard: Shard) -> dict[str, object]:
    return {"job_id": shard.job_id, "shard": shard.shard, "batch_id": shard.batch_id}


def _put_off(store: Store, shard: Shard, error: ResultsError, *, unsettled: float, owner: str) -> None:
    """Look again once as much time has passed as since the end of the batch, so seldom that a tick costs nothing."""
    ledger = store.ledger
    seconds = min(unsettled, max(_SHORTEST_PAUSE, RESULTS_SETTLE_SECONDS - unsettled))
    reason = f"Batch {shard.batch_id}: {error} They may come late; looking again in {seconds:.0f} s."
    if ledger.move(shard.shard, ENDED, owned_by=owner, not_before=ledger.now() + seconds, reason=reason):
        tell("batch.late", **_named(shard), seconds=seconds, reason=str(error))


@dataclass(frozen=True, slots=True)
class _Fetches:
    """Fetches of one results file; once all lines must be there, some may be lacking for good."""

    store: Store
    api: BatchesApi
    batch: Batch
    members: Members
    typed: Derived | None
    may_lack: bool

    def run(self, file: BinaryIO, *, held: Callable[[], bool]) -> Outcome:
        errors: list[ResultsError] = []
        while len(errors) < FETCHES:
            file.seek(0)
            file.truncate()
            with self.api.results(self.batch.id, self.batch.results_url) as body:
                absent = self._stayed_away(errors) if body.is_framed else frozenset[int]()
                try:
                    spool = spool_lines(body.chunks, self.members, file, absent=absent)
                    return self._write(file, spool, held=held)
                except ResultsError as error:
                    errors.append(error)
        raise errors[-1]

    def _write(self, file: BinaryIO, spool: Spool, *, held: Callable[[], bool]) -> Outcome:
        batch, prices = self.batch, prices_of(self.store, self.batch)
        outcome = Outcome(prices, self.typed)
        with self.store.replacing(self.store.results_path(batch.id)) as path:
            write_results(path, file, spool, outcome, batch_id=batch.id)
            _check_counts(batch, self.members, outcome)
            if not held():  # who took over may have recorded another file by now
                raise LeaseLostError
        return outcome

    def _stayed_away(self, errors: Sequence[ResultsError]) -> frozenset[int]:
        """Return the lines that every fetch but the last one lacked, if nothing else was ever wrong."""
        found = {error.missing for error in errors}
        if not self.may_lack or len(errors) < FETCHES - 1 or len(found) > 1:
            return frozenset()
        missing = found.pop()
        nothing_came = len(missing) == len(self.members) > 1
        return frozenset() if nothing_came else missing


def prices_of(store: Store, batch: Batch) -> PriceList:
    """Return the prices that a batch is paid at."""
    return PriceList(batch.created_at, store=store.path)


def write_results(path: Path, file: BinaryIO, spool: Spool, outcome: Outcome, *, batch_id: str) -> None:
    """Write spooled lines as a file of the store, and count what they come to.

    Raises:
        ResultsError: A line is not a result.
    """
    with pq.ParquetWriter(path, RESULT_SCHEMA, **WRITING) as writer:
        first = 0
        for decoded in decode(file, spool, outcome.prices, batch_id=batch_id):
            writer.write_batch(decoded.batch)
            outcome.add(first, decoded)
            first += decoded.batch.num_rows
            give_back()
    give_back(every=True)


def _check_counts(batch: Batch, members: Members, outcome: Outcome) -> None:
    """Compare the lines with what the API counts; what is missing may be of any kind."""
    stated = Counter({kind: count for kind, count in batch.request_counts.items() if count})
    came = outcome.tallies - Counter(errored=len(outcome.positions("missing")))
    if came - stated or stated.total() != len(members):
        raise ResultsError(f"{len(members):,} requests were sent, {_list(came)} came, but it counts {_list(stated)}.")


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())) or "nothing"


def _record(store: Store, shard: Shard, members: Members, outcome: Outcome, *, owner: str) -> None:
    """Turn `ended` into `collected`, once, and move the rows that are asked again, all in one transaction."""
    ledger = store.ledger
    with ledger.transaction():
        retries = _to_ask_again(store, shard, outcome)
        moved = {position for retry in retries for position in retry.positions}
        failed = {position: kind for position, (kind, _) in outcome.unanswered.items() if position not in moved}
        if not ledger.move(shard.shard, ENDED, owned_by=owner, **outcome.recorded(failed)):
            return
        tell("batch.collected", **_named(shard), **outcome.told())
        ledger.record_usage(shard.shard, outcome.spending.models.values())
        ledger.fail(shard, members, failed)
        for retry in retries:
            positions, attempt, missing_from = retry
            ledger.split_off(shard, members, positions, attempt=attempt, missing_from=missing_from)
            tell("batch.retried", **_named(shard), requests=len(positions), attempt=attempt)
        _block(store, shard, outcome)


class _Retry(NamedTuple):
    """Rows that are asked again together."""

    positions: list[int]
    attempt: int
    missing_from: str | None


def _to_ask_again(store: Store, shard: Shard, outcome: Outcome) -> list[_Retry]:
    wanting = store.ledger.waiting_jobs(shard.shard, WANTING_JOBS)
    attempts = max((Settings.of(job).limits.max_attempts for job in wanting), default=0)
    unspent = outcome.positions("account")
    if shard.cancel_wanted:  # for a job that wanted it no more; whoever waits by now does
        unspent = sorted(unspent + outcome.positions("canceled"))
    lost = ", ".join(filter(None, (shard.missing_from, shard.batch_id)))
    may_repeat = shard.attempt < attempts
    retries = [
        _Retry(unspent if wanting else [], shard.attempt, shard.missing_from),
        _Retry(outcome.positions("again") if may_repeat else [], shard.attempt + 1, shard.missing_from),
        _Retry(outcome.positions("missing") if may_repeat else [], shard.attempt + 1, lost),
    ]
    return [retry for retry in retries if retry.positions]


def _block(store: Store, shard: Shard, outcome: Outcome) -> None:
    if outcome.account_message:
        block_jobs(store, shard, f"{outcome.account_message} Mend the account, then `resume`.")
    if outcome.tallies["canceled"] and not shard.cancel_wanted:
        block_jobs(store, shard, _CANCELED_ELSEWHERE.format(batch_id=shard.batch_id))


def fetch_again(store: Store, api: BatchesApi, shard: Shard, batch: Batch) -> None:
    """Write the results of a collected shard anew, in the order that they had; the ledger stays as it is.

    Raises:
        ApiError: They cannot be fetched.
        ResultsError: They do not agree with what was sent.
        StoreError: They could not be written.
    """
    members = store.ledger.members(shard.shard)
    settled = api.seconds_until_settled(batch, default=store.ledger.now()) <= 0
    with store.spool() as file:
        _Fetches(store, api, batch, members, None, may_lack=settled).run(file, held=lambda: True)


def record_lost(store: Store, shard: Shard) -> None:
    """Give up the answers of a collected shard whose file is lost: they count as none, and may be asked again."""
    ledger = store.ledger
    members = ledger.members(shard.shard)
    with ledger.transaction():
        claims = ledger.claims(shard.account, members.split())
        mine = [claims.get(address) for address in members.split()]
        lost = [at for at, claim in enumerate(mine) if claim and claim.shard == shard.shard and not claim.failed]
        ledger.fail(shard, members, dict.fromkeys(lost, "errored"))
        tallies = dict.fromkeys(("succeeded", "truncated", "refused", "paused", "misfits"), 0)
        tallies["errored"] = shard.errored + len(lost)
        reason = _LOST.format(results=shard.results_id)
        ledger.move(shard.shard, COLLECTED, owned_by=None, reason=reason, **tallies)


def record_gone(store: Store, shard: Shard) -> None:
    """Give up a batch that the API no longer knows: its rows have no answer, and the user decides."""
    ledger = store.ledger
    members = ledger.members(shard.shard)
    with ledger.transaction():
        gone = f"Batch {shard.batch_id} is gone: the API keeps its results no more."
        is_free = ledger.is_abandoned(ledger.shard(shard.shard))
        if is_free and ledger.move(shard.shard, (shard.state,), state="collected", errored=len(members), reason=gone):
            tell("batch.gone", **_named(shard), requests=len(members))
            ledger.fail(shard, members, dict.fromkeys(range(len(members)), "errored"))
            block_jobs(store, shard, _GONE.format(gone=gone, requests=len(members)))
