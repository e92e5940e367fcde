"""A store against the API: which batches run out of time, are gone, wait to be collected, or are known to nobody."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from claude_pipeline.batches import BatchesApi
from claude_pipeline.display import plural
from claude_pipeline.errors import ApiError
from claude_pipeline.findings import Finding, Severity
from claude_pipeline.records import BEING_SENT, RUNNING, Shard
from claude_pipeline.regaining import is_ours
from claude_pipeline.sessions import Session
from claude_pipeline.store import Store
from claude_pipeline.wire import Batch

_HOUR = 3600.0
_EXPIRES, _EXPIRES_SOON = 24 * _HOUR, 2 * _HOUR
_KEPT, _KEPT_SOON = 29 * 24 * _HOUR, 2 * 24 * _HOUR
_PATIENCE = _HOUR  # with whoever advances

_COLLECTS = "collects it, as the next `advance` does"
_RECOVERS = "reads it into the store, as `recover` does"
_GONE = (
    "Batch {batch_id} of {job_id} is not at the API any more: it was deleted, or is older than 29 days. `advance` "
    "makes sure of it and blocks the job; `resume` then asks its requests again, and pays for them again."
)
_EXPIRING = (
    "Batch {batch_id} expires {when}. What has no answer by then is not billed, and is asked again as often as "
    "max_attempts allows."
)
_VANISHING = "Batch {batch_id} of {job_id} has ended, and the API keeps its results no longer than {when}."
_UNCOLLECTED = "Batch {batch_id} of {job_id} ended {hours} h ago, and nobody has collected it."
_ADVANCE = "Let cron run `claude-pipeline advance`, or wait for the job."
_ORPHAN = (
    "Batch {batch_id} answered requests that this store has asked, but its ledger does not know the batch: another "
    "store sent it, or a create call was accepted late. It is paid for."
)
_UNCLAIMED = (
    "{batches} of the workspace may be ours, but this ledger has asked none of it: another store's, or an earlier "
    "one's. `claude-pipeline recover --dry-run` shows what they hold."
)


@dataclass(frozen=True)
class View:
    """What the API keeps for an account.

    Attributes:
        batches: By their ids, those whose results are or will be kept.
    """

    store: Store
    session: Session
    base_url: str | None
    batches: dict[str, Batch]

    @property
    def account(self) -> str:
        """Name the account."""
        return self.store.ledger.account_name(self.session.account)

    @property
    def now(self) -> float:
        """Return the API's time, in seconds since the epoch."""
        return self.session.api.now(default=self.store.ledger.now())

    def inspect(self, shards: Sequence[Shard]) -> Iterator[Finding]:
        """Yield what the API shows of an account's shards, and of batches that none of them is."""
        for shard in shards:
            if shard.state in RUNNING or shard.state == "ended":
                yield from self._sent(shard)
        yield from self._unknown()

    def _sent(self, shard: Shard) -> Iterator[Finding]:
        batch = self.batches.get(shard.batch_id or "")
        if batch is None:
            yield _found("gone_batch", "error", shard, _GONE.format(batch_id=shard.batch_id, job_id=shard.job_id))
            return
        age = self.now - batch.created_at.timestamp()
        if batch.processing_status != "ended":
            if age > _EXPIRES - _EXPIRES_SOON:
                yield _found(
                    "expiring_batch", "info", shard, _EXPIRING.format(batch_id=batch.id, when=_when(_EXPIRES - age))
                )
            return
        since = self.now - (batch.ended_at or batch.created_at).timestamp()
        if age > _KEPT - _KEPT_SOON:
            words = _VANISHING.format(batch_id=batch.id, job_id=shard.job_id, when=_when(_KEPT - age))
            yield _found("vanishing_results", "error", shard, words, repair=_COLLECTS)
        elif since > _PATIENCE and not shard.reason:  # else its jobs are blocked, and say why
            words = _UNCOLLECTED.format(batch_id=batch.id, job_id=shard.job_id, hours=round(since / _HOUR))
            yield _found("uncollected_batch", "warning", shard, words, way_out=_ADVANCE, repair=_COLLECTS)

    # Batches that no shard is

    def _unknown(self) -> Iterator[Finding]:
        for batch in self.orphans:
            yield Finding(
                "orphan", "batches", "warning", _ORPHAN.format(batch_id=batch.id), repair=_RECOVERS, batch_id=batch.id
            )
        _, unclaimed, failed = self._looked_at
        if unclaimed:
            words = _UNCLAIMED.format(batches=plural(len(unclaimed), "ended batch"))
            yield Finding("unknown_batches", "batches", "info", words)
        for batch, error in failed:
            words = f"Batch {batch.id}, which the ledger does not know, could not be looked at. {error}"
            yield Finding("unread_batch", "batches", "info", words, batch_id=batch.id)

    @property
    def orphans(self) -> list[Batch]:
        """Batches that answered requests which this store has asked, and that its ledger does not know."""
        return self._looked_at[0]

    @cached_property
    def _looked_at(self) -> tuple[list[Batch], list[Batch], list[tuple[Batch, ApiError]]]:
        """Sort unknown batches by the first line of their results: claimed here, not claimed, not to be read."""
        known = self.store.ledger.batch_ids()
        claimed, unclaimed, failed = list[Batch](), list[Batch](), list[tuple[Batch, ApiError]]()
        for batch in self.batches.values():
            if batch.id in known or not batch.has_results:
                continue
            try:
                address = is_ours(_first_line(self.session.api, batch))
            except ApiError as error:
                failed.append((batch, error))
                continue
            claim = self.store.ledger.claims(self.session.account, [address]).get(address) if address else None
            if address and claim is None:
                unclaimed.append(batch)
            elif claim and self.store.ledger.shard(claim.shard).state not in BEING_SENT:  # else it is being settled
                claimed.append(batch)
        return claimed, unclaimed, failed


def _first_line(api: BatchesApi, batch: Batch) -> bytes:
    line = b""
    with api.results(batch.id, batch.results_url) as body:
        for chunk in body.chunks:
            line += chunk
            if b"\n" in chunk:
                break
    return line.partition(b"\n")[0]


def _found(
    kind: str, severity: Severity, shard: Shard, message: str, *, way_out: str | None = None, repair: str | None = None
) -> Finding:
    return Finding(kind, "batches", severity, message, way_out, repair, shard.job_id, shard.batch_id)


def _when(seconds: float) -> str:
    hours = round(seconds / _HOUR)
    return "within the hour" if hours < 1 else f"in about {hours} h"
