"""A job's status, put together from the ledger."""

from collections.abc import Sequence

from claude_pipeline.planning import Settings, has_room
from claude_pipeline.records import JobRecord, Shard, ShardState
from claude_pipeline.status import BatchStatus, ProcessingStatus, RequestCounts, Status
from claude_pipeline.store import Store

_WAITING = ("planned", "uploading")
_STATUSES: dict[ShardState, ProcessingStatus] = {"in_progress": "in_progress", "canceling": "canceling"}


def report(store: Store, job: JobRecord, *, notes: Sequence[str] = ()) -> Status:
    """Say where a job stands. `notes` are what its last step could not do."""
    own = store.ledger.own_shards(job.job_id)
    awaited = store.ledger.awaited_shards(job.job_id)
    costs = [shard.cost_usd for shard in own]
    return Status(
        job_id=job.job_id,
        name=job.name,
        model=Settings.of(job).model,
        state=job.state,
        reason=job.reason or _reason(awaited, notes),
        rows=job.rows,
        skipped=job.skipped,
        invalid=job.invalid,
        duplicates=job.duplicates,
        reused=job.reused,
        requests=job.requests,
        counts=_counts(own),
        unanswered=job.unanswered,
        input_tokens=sum(shard.input_tokens for shard in own),
        output_tokens=sum(shard.output_tokens for shard in own),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
        batches=tuple(_batch(shard) for shard in awaited if shard.batch_id),
        is_due=_is_due(store, job, awaited),
        changes=job.changes,
        created_at=job.created_at,
        submitted_at=job.submitted_at,
        ended_at=job.ended_at,
    )


def _is_due(store: Store, job: JobRecord, awaited: Sequence[Shard]) -> bool:
    if job.state in {"planning", "canceling"}:
        return True
    if job.state != "in_progress":
        return False
    return all(shard.state == "collected" for shard in awaited) or any(
        shard.state == "ended" or _can_leave(store, job, shard) or _is_doubtful(store, shard) for shard in awaited
    )


def _can_leave(store: Store, job: JobRecord, shard: Shard) -> bool:
    ledger = store.ledger
    if shard.state != "planned" or shard.not_before > ledger.now():
        return False
    return has_room(ledger.queued_requests(shard.account), shard.requests, job)


def _is_doubtful(store: Store, shard: Shard) -> bool:
    return shard.state in {"uploading", "submitting"} and store.ledger.is_abandoned(shard)


def _counts(own: Sequence[Shard]) -> RequestCounts:
    waiting = sum(shard.requests for shard in own if shard.state in _WAITING)
    collected = [shard for shard in own if shard.state == "collected"]
    return RequestCounts(
        waiting=waiting,
        processing=sum(shard.requests for shard in own if shard.state not in {*_WAITING, "collected"}),
        succeeded=sum(shard.succeeded for shard in collected),
        errored=sum(shard.errored for shard in collected),
        canceled=sum(shard.canceled for shard in collected),
        expired=sum(shard.expired for shard in collected),
    )


def _batch(shard: Shard) -> BatchStatus:
    return BatchStatus(
        batch_id=shard.batch_id or "",
        processing_status=_STATUSES.get(shard.state, "ended"),
        requests=shard.requests,
        attempt=shard.attempt,
        created_at=shard.created_at or 0.0,
        ended_at=shard.ended_at,
    )


def _reason(awaited: Sequence[Shard], notes: Sequence[str]) -> str | None:
    told = [*notes, *(shard.reason for shard in awaited if shard.reason and shard.state != "collected")]
    if told:
        return " ".join(dict.fromkeys(told))
    planned = sum(shard.state == "planned" for shard in awaited)
    running = sum(shard.state in {"in_progress", "canceling"} for shard in awaited)
    if planned and running:
        return f"{planned} of {len(awaited)} batches wait for room in the queue."
    return None
