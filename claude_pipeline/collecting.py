"""Collecting batches that ended: their lines become a file, and who has no answer is asked again or marked."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from claude_pipeline.batches import RESULTS_SETTLE_SECONDS, BatchesApi
from claude_pipeline.derived import AnswerOptions, Derived
from claude_pipeline.errors import ResultsError
from claude_pipeline.leases import LeaseLostError, renewed
from claude_pipeline.planning import Settings
from claude_pipeline.pricing import PriceList
from claude_pipeline.records import ENDED, FAILED, OPEN_JOBS, WANTING_JOBS, Shard
from claude_pipeline.results import RESULT_SCHEMA, Decoded, Spool, Verdict, decode, spool_lines
from claude_pipeline.sending import block_jobs
from claude_pipeline.shards import Members
from claude_pipeline.status import total_usd
from claude_pipeline.store import Store
from claude_pipeline.wire import Batch

_FETCHES = 3
_SHORTEST_PAUSE = 15.0

# What the ledger sums up of a results file, and where it stands there.
_TOKENS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
}

# Answers that are paid and may be of no use, and how they stopped.
_FLAGGED = {"truncated": "max_tokens", "refused": "refusal", "paused": "pause_turn"}

_CANCELED_ELSEWHERE = "Batch {batch_id} was canceled, but not by this job. `resume` asks its canceled rows again."

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
        with renewed(lambda: ledger.renew(shard.shard, owner=owner)), store.spool() as file:
            typed = _typed(Settings.of(ledger.planner_of(shard)).answers)
            fetches = _Fetches(store, api, batch, members, typed, may_lack=unsettled <= 0)
            outcome = fetches.run(file, held=partial(ledger.renew, shard.shard, owner=owner))
            _record(store, shard, members, outcome, owner=owner)
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
            block_jobs(store, shard, reason, states=OPEN_JOBS)


def _put_off(store: Store, shard: Shard, error: ResultsError, *, unsettled: float, owner: str) -> None:
    """Look again once as much time has passed as since the end of the batch, so seldom that a tick costs nothing."""
    ledger = store.ledger
    seconds = min(unsettled, max(_SHORTEST_PAUSE, RESULTS_SETTLE_SECONDS - unsettled))
    reason = f"Batch {shard.batch_id}: {error} They may come late; looking again in {seconds:.0f} s."
    ledger.move(shard.shard, ENDED, owned_by=owner, not_before=ledger.now() + seconds, reason=reason)


@dataclass(frozen=True, slots=True)
class _Fetches:
    """Fetches of one results file; once all lines must be there, some may be lacking for good."""

    store: Store
    api: BatchesApi
    batch: Batch
    members: Members
    typed: Derived | None
    may_lack: bool

    def run(self, file: BinaryIO, *, held: Callable[[], bool]) -> "_Outcome":
        errors: list[ResultsError] = []
        while len(errors) < _FETCHES:
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

    def _write(self, file: BinaryIO, spool: Spool, *, held: Callable[[], bool]) -> "_Outcome":
        batch, outcome = self.batch, _Outcome()
        prices = PriceList(batch.created_at, store=self.store.path)
        with self.store.replacing(self.store.results_path(batch.id)) as path:
            with pq.ParquetWriter(path, RESULT_SCHEMA, compression="zstd", compression_level=1) as writer:
                first = 0
                for decoded in decode(file, spool, prices, batch_id=batch.id):
                    writer.write_batch(decoded.batch)
                    outcome.add(first, decoded)
                    outcome.misfits += _count_misfits(self.typed, decoded)
                    first += decoded.batch.num_rows
            _check_counts(batch, self.members, outcome)
            if not held():  # who took over may have recorded another file by now
                raise LeaseLostError
        return outcome

    def _stayed_away(self, errors: Sequence[ResultsError]) -> frozenset[int]:
        """Return the lines that every fetch but the last one lacked, if nothing else was ever wrong."""
        found = {error.missing for error in errors}
        if not self.may_lack or len(errors) < _FETCHES - 1 or len(found) > 1:
            return frozenset()
        missing = found.pop()
        nothing_came = len(missing) == len(self.members) > 1
        return frozenset() if nothing_came else missing


@dataclass(slots=True)
class _Outcome:
    """What a batch came to: `unanswered` says for a position what it came to instead, and the verdict on that."""

    tallies: Counter[str] = field(default_factory=Counter)
    stop_reasons: Counter[str] = field(default_factory=Counter)
    misfits: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    cost_usd: float | None = 0.0
    cache_saved_usd: float | None = 0.0
    unanswered: dict[int, tuple[str, Verdict]] = field(default_factory=dict)
    account_message: str = ""

    def add(self, first: int, decoded: Decoded) -> None:
        """Count a run of results whose first stands at a position of the shard."""
        types = decoded.batch.column("result_type").to_pylist()
        self.tallies.update(types)
        self.stop_reasons.update(decoded.batch.column("stop_reason").to_pylist())
        for position, (verdict, result_type) in enumerate(zip(decoded.verdicts, types, strict=True), first):
            if verdict != "succeeded":
                self.unanswered[position] = result_type, verdict
            if verdict == "account":
                self.account_message = decoded.batch.column("error_message")[position - first].as_py()
        self._add_usage(decoded)

    def positions(self, verdict: Verdict) -> list[int]:
        """List the requests that were judged so."""
        return [position for position, (_, judged) in self.unanswered.items() if judged == verdict]

    def _add_usage(self, decoded: Decoded) -> None:
        for kind, column in _TOKENS.items():
            self.tokens[kind] += pc.sum(decoded.batch.column(column)).as_py() or 0
        costs = decoded.batch.column("cost_usd")
        spent = None if costs.null_count else pc.sum(costs).as_py() or 0.0
        self.cost_usd = total_usd([self.cost_usd, spent])
        self.cache_saved_usd = total_usd([self.cache_saved_usd, *decoded.cache_saved_usd])


def _typed(answers: AnswerOptions) -> Derived | None:
    """Return what types answers, if they have to fit something."""
    return Derived(answers) if answers.output_schema or answers.tool_schema else None


def _count_misfits(typed: Derived | None, decoded: Decoded) -> int:
    return sum(error is not None for error in typed.derive(decoded.batch).errors) if typed else 0


def _check_counts(batch: Batch, members: Members, outcome: _Outcome) -> None:
    """Compare the lines with what the API counts; what is missing may be of any kind."""
    stated = Counter({kind: count for kind, count in batch.request_counts.items() if count})
    came = outcome.tallies - Counter(errored=len(outcome.positions("missing")))
    if came - stated or stated.total() != len(members):
        raise ResultsError(f"{len(members):,} requests were sent, {_list(came)} came, but it counts {_list(stated)}.")


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())) or "nothing"


def _record(store: Store, shard: Shard, members: Members, outcome: _Outcome, *, owner: str) -> None:
    """Turn `ended` into `collected`, once, and move the rows that are asked again, all in one transaction."""
    ledger = store.ledger
    with ledger.transaction():
        retries = _to_ask_again(store, shard, outcome)
        moved = {position for retry in retries for position in retry.positions}
        failed = {position: kind for position, (kind, _) in outcome.unanswered.items() if position not in moved}
        left = Counter(failed.values())
        tallies = {"succeeded": outcome.tallies["succeeded"], **{kind: left[kind] for kind in FAILED}}
        tallies |= {column: outcome.stop_reasons[reason] for column, reason in _FLAGGED.items()}
        tallies["misfits"] = outcome.misfits
        done = {"state": "collected", "owner": None, "reason": None, **tallies, **outcome.tokens}
        usd = {"cost_usd": outcome.cost_usd, "cache_saved_usd": outcome.cache_saved_usd}
        if not ledger.move(shard.shard, ENDED, owned_by=owner, **done, **usd):
            return
        ledger.fail(shard, members, failed)
        for retry in retries:
            positions, attempt, missing_from = retry
            ledger.split_off(shard, members, positions, attempt=attempt, missing_from=missing_from)
        _block(store, shard, outcome)


class _Retry(NamedTuple):
    """Rows that are asked again together."""

    positions: list[int]
    attempt: int
    missing_from: str | None


def _to_ask_again(store: Store, shard: Shard, outcome: _Outcome) -> list[_Retry]:
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
        gone = f"Batch {shard.batch_id} is gone: the API keeps its results no more."
        is_free = ledger.is_abandoned(ledger.shard(shard.shard))
        if is_free and ledger.move(shard.shard, (shard.state,), state="collected", errored=len(members), reason=gone):
            ledger.fail(shard, members, dict.fromkeys(range(len(members)), "errored"))
            block_jobs(store, shard, _GONE.format(gone=gone, requests=len(members)))
