"""A job's status, put together from the ledger."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from claude_pipeline.display import day, plural
from claude_pipeline.prompts import RequestForm
from claude_pipeline.records import JobRecord, Shard, ShardState
from claude_pipeline.sending import finds_cache, may_leave
from claude_pipeline.settings import Settings
from claude_pipeline.status import (
    BatchStatus,
    ProcessingStatus,
    Refusal,
    RequestCounts,
    Saved,
    Status,
    total_usd,
)
from claude_pipeline.store import Store

_SEARCH_TOOL = b'"type":"web_search_'  # quotes inside of a text are escaped
_WAITING = ("planned", "uploading")
_STATUSES: dict[ShardState, ProcessingStatus] = {"in_progress": "in_progress", "canceling": "canceling"}


class Note(NamedTuple):
    """What a step could not do, in words: for one shard, or for anything at all."""

    words: str
    shard: int | None = None


def report(store: Store, job: JobRecord, *, notes: Sequence[Note] = ()) -> Status:
    """Say where a job stands. `notes` are what the last step could not do, for this job or for others."""
    own = store.ledger.own_shards(job.job_id)
    awaited = store.ledger.awaited_shards(job.job_id)
    settings = Settings.of(job)
    told = [note for note in notes if note.shard in {None, *(shard.shard for shard in awaited)}]
    return Status(
        job_id=job.job_id,
        name=job.name,
        model=settings.model,
        state=job.state,
        reason=job.reason or _reason(store, job, awaited, [note.words for note in told]),
        rows=job.rows,
        skipped=job.skipped,
        invalid=job.invalid,
        refusals=tuple(msgspec.json.decode(job.refusals, type=list[Refusal])),
        duplicates=job.duplicates,
        reused=job.reused,
        requests=job.requests,
        counts=_counts(shard for shard in own if not shard.asking),
        unanswered=job.unanswered,
        input_tokens=sum(shard.input_tokens for shard in own),
        output_tokens=sum(shard.output_tokens for shard in own),
        cache_read_tokens=sum(shard.cache_read_tokens for shard in own),
        cache_write_tokens=sum(shard.cache_write_tokens for shard in own),
        cost_usd=_cost(own),
        saved=_saved(job, settings.form, own, awaited),
        batches=tuple(_batch(shard) for shard in awaited if shard.batch_id),
        is_due=_is_due(store, job, awaited) and all(note.shard is not None for note in told),
        changes=job.changes,
        created_at=job.created_at,
        submitted_at=job.submitted_at,
        ended_at=job.ended_at,
        again=_counts(shard for shard in own if shard.asking),
        truncated=sum(shard.truncated for shard in own),
        refused=sum(shard.refused for shard in own),
        paused=sum(shard.paused for shard in own),
        misfits=sum(shard.misfits for shard in own),
        submitted_by=job.submitted_by,
        submitted_from=job.submitted_from,
        pruned_at=job.pruned_at,
    )


def _is_due(store: Store, job: JobRecord, awaited: Sequence[Shard]) -> bool:
    if job.state in {"planning", "canceling"}:
        return True
    if job.state != "in_progress":
        return False
    return all(shard.state == "collected" for shard in awaited) or any(
        _can_be_collected(store, shard) or _can_leave(store, job, shard) or _is_left_behind(store, shard)
        for shard in awaited
    )


def _can_be_collected(store: Store, shard: Shard) -> bool:
    return shard.state == "ended" and shard.not_before <= store.ledger.now()


def _can_leave(store: Store, job: JobRecord, shard: Shard) -> bool:
    return shard.state == "planned" and may_leave(store, shard, job)


def _is_left_behind(store: Store, shard: Shard) -> bool:
    return shard.state in {"uploading", "submitting", "streaming"} and store.ledger.is_abandoned(shard)


def _counts(shards: Iterable[Shard]) -> RequestCounts:
    own = list(shards)
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


def _cost(shards: Sequence[Shard]) -> float | None:
    return total_usd(shard.cost_usd for shard in shards)


def _saved(job: JobRecord, form: RequestForm, own: Sequence[Shard], awaited: Sequence[Shard]) -> Saved:
    others = [shard for shard in awaited if shard.job_id != job.job_id]
    batches = _cost([shard for shard in own if shard.batch_id])
    return Saved(
        # What was asked again has made rows dearer, and not more.
        duplicates_usd=_would_have_cost(job.duplicates, _cost(own), _counts(s for s in own if not s.asking).finished),
        reused_usd=_would_have_cost(job.reused, _cost(others), _counts(others).finished),
        caching_usd=total_usd(shard.cache_saved_usd for shard in own),
        batch_usd=None if batches and _may_search(form) else batches,  # a batch costs half: it saves what it costs
    )


def _may_search(form: RequestForm) -> bool:
    fixed = [part for part in form.parts if isinstance(part, bytes)]
    return form.column_of("tools") is not None or any(_SEARCH_TOOL in part for part in fixed)


def _would_have_cost(rows: int, cost: float | None, finished: int) -> float | None:
    """Take each row for the mean of the requests that have come to a result, of which not all were answered."""
    return cost and cost * rows / finished if rows and finished else 0.0


def _batch(shard: Shard) -> BatchStatus:
    return BatchStatus(
        batch_id=shard.batch_id or "",
        processing_status=_STATUSES.get(shard.state, "ended"),
        requests=shard.requests,
        attempt=shard.attempt,
        created_at=shard.created_at or 0.0,
        ended_at=shard.ended_at,
    )


def _reason(store: Store, job: JobRecord, awaited: Sequence[Shard], notes: Sequence[str]) -> str | None:
    if job.pruned_at is not None:
        return f"Its input and answers were pruned on {day(job.pruned_at)}. Its figures are kept."
    told = [*notes, *(shard.reason for shard in awaited if shard.reason and shard.state != "collected")]
    if told:
        return " ".join(dict.fromkeys(told))
    again = sum(shard.requests for shard in awaited if job.asking and shard.state != "collected")
    if again:
        return f"Asking again, because answers were cut off or do not fit: {plural(again, 'request')}."
    planned = [shard for shard in awaited if shard.state == "planned"]
    if planned and not any(finds_cache(store, shard) for shard in planned):
        return f"{len(planned)} of {len(awaited)} batches wait for the first one, which fills the cache."
    if planned and any(shard.state in {"in_progress", "canceling"} for shard in awaited):
        return f"{len(planned)} of {len(awaited)} batches wait for room in the queue."
    return None
