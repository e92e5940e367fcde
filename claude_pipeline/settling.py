"""Settling create calls whose answer was lost: the API's own list says whether a batch came of it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from claude_pipeline.batches import BatchesApi
from claude_pipeline.errors import ApiError, ResultsError
from claude_pipeline.leases import LEASE_SECONDS, is_dead
from claude_pipeline.logs import tell
from claude_pipeline.records import Shard
from claude_pipeline.sending import UNTIL_RESUMED, adoption, block_until_resumed, named
from claude_pipeline.shards import Members
from claude_pipeline.spooling import spool_lines
from claude_pipeline.store import Store
from claude_pipeline.wire import Batch

GRACE_SECONDS = 60.0
_CANDIDATE_WINDOW = timedelta(minutes=15)


def settle(store: Store, api: BatchesApi, shard: Shard) -> None:
    """Find out whether a doubtful shard became a batch: adopt it, wait, or plan it again after the grace.

    Candidates are newer than the batch noted before the last chunk, of our size and unknown to the ledger; a
    candidate is adopted when the ids of its whole results file are the shard's. Lines that have not come ten minutes
    after its end are missing, which the collection of the batch deals with.

    Raises:
        ApiError: A candidate could not be looked at, or not wholly; nothing was recorded.
    """
    ledger = store.ledger
    candidates = _candidates(store, api, shard)
    if ours := _find_ours(store, api, shard, candidates):
        if ledger.move_doubtful(shard, **adoption(ours)):
            tell("batch.found", **named(shard), batch_id=ours.id)
        return
    running = [batch.id for batch in candidates if batch.processing_status != "ended"]
    archived = [batch.id for batch in candidates if batch.archived_at]
    if archived:
        _give_up(store, shard, archived)
    elif running:
        reason = f"The answer to a create call was lost. Waiting for {', '.join(running)} to end, which may be it."
        _doubt(store, shard, reason)
    elif ledger.now() - _cut_at(shard) > GRACE_SECONDS:
        if ledger.move_doubtful(shard, state="planned", owner=None, reason=None):
            tell("batch.not_found", **named(shard))
    elif not shard.reason:
        _doubt(store, shard, "A create call was cut short; looking whether the batch exists.")


def _doubt(store: Store, shard: Shard, reason: str) -> None:
    if reason != shard.reason and store.ledger.move_doubtful(shard, reason=reason):
        tell("batch.doubtful", **named(shard), reason=reason)


def _give_up(store: Store, shard: Shard, archived: list[str]) -> None:
    """Leave it to the user whether to pay again for what may have been answered and can be proved no more."""
    reason = (
        f"The answer to a create call was lost, and the API no longer keeps the results of "
        f"{', '.join(archived)}, which may be it. `resume` sends its {shard.requests:,} requests again."
    )
    store.ledger.move_doubtful(shard, state="planned", owner=None, reason=reason, not_before=UNTIL_RESUMED)
    block_until_resumed(store, shard)


def _cut_at(shard: Shard) -> float:
    """Return when a doubtful create call ended at the latest.

    A dead process sent nothing after it last said that it lived; one that may only be frozen has its lease first.
    """
    lease_until = shard.lease_until or 0.0
    may_live = shard.owner is not None and not is_dead(shard.owner)
    return max(shard.submitting_at or 0.0, lease_until if may_live else lease_until - LEASE_SECONDS)


def _candidates(store: Store, api: BatchesApi, shard: Shard) -> list[Batch]:
    known = store.ledger.batch_ids()
    # By the clock of who sent it, and how far the API's was ahead of that: a bound too late only waits.
    cut_at = datetime.fromtimestamp(_cut_at(shard) + max(0.0, shard.api_ahead or 0.0), UTC)
    found = []
    for batch in api.newest_first():
        if batch.id == shard.newest_batch_id:
            break
        if batch.id not in known and batch.requests == shard.requests:
            found.append(batch)
    return [batch for batch in found if batch.created_at <= cut_at + _CANDIDATE_WINDOW]


def _find_ours(store: Store, api: BatchesApi, shard: Shard, candidates: Iterable[Batch]) -> Batch | None:
    """Return the candidate whose results are the shard's; one that cannot be judged hides no other."""
    members = store.ledger.members(shard.shard)
    doubts = []
    for batch in candidates:
        try:
            if batch.has_results and _is_ours(store, api, batch, members):
                return batch
        except ApiError as error:
            doubts.append(error)
    if doubts:
        raise doubts[0]
    return None


def _is_ours(store: Store, api: BatchesApi, batch: Batch, members: Members) -> bool:
    unsettled = api.seconds_until_settled(batch, default=store.ledger.now())
    with store.spool() as spool, api.results(batch.id, batch.results_url) as body:
        try:
            spool_lines(body.chunks, members, spool)
        except ResultsError as error:
            if error.strangers:
                return False
            if 0 < len(error.missing) < len(members) and body.is_framed and unsettled <= 0:
                return True
            raise ApiError(f"Batch {batch.id} may be the one whose create call was lost. {error}") from error
    return True
