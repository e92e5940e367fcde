"""Sending shards: a planned shard becomes a Message Batch, exactly once.

The create call has no idempotency key, so the intent is written just before the last chunk of its body leaves: a
body cut short cannot become a batch, and what was cut later is doubtful until the API's own list settles it.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from claude_pipeline.batches import BatchesApi, body_chunks
from claude_pipeline.bodies import CHANGED, ChangedFilesError, uploading, write_shard
from claude_pipeline.budgets import OverBudgetError, fit, has_budget, may_reserve
from claude_pipeline.leases import LeaseLostError, renewed
from claude_pipeline.logs import tell
from claude_pipeline.records import (
    SUBMITTING,
    UPLOADING,
    WANTING_JOBS,
    JobRecord,
    Shard,
)
from claude_pipeline.refusals import TOO_MANY, CreateRefusedError
from claude_pipeline.settings import Settings, has_room
from claude_pipeline.status import JobState
from claude_pipeline.store import Store
from claude_pipeline.traces import PROVIDER, span
from claude_pipeline.transport import body_encoding
from claude_pipeline.wire import Batch

_BACK_OFF_SECONDS = 5.0
_LONGEST_BACK_OFF_SECONDS = 600.0
_DOUBLINGS = 7  # from the shortest to the longest
_REFUSALS_BEFORE_HALVING = 3
UNTIL_RESUMED = inf  # the `not_before` of a shard that only its user may send


def send(store: Store, api: BatchesApi, shard: Shard, *, owner: str) -> None:
    """Send a planned shard, or as much of it as its budgets allow, if an open job wants it and the queue has room.

    Raises:
        ApiError: The API could not be asked what is newest.
        StoreError: The store cannot be written, or the input in it was changed.
    """
    ledger = store.ledger
    jobs = ledger.waiting_jobs(shard.shard, WANTING_JOBS)
    if not jobs or not may_leave(store, shard, jobs[0]):
        return
    try:
        fitting = fit(store, shard)
    except OverBudgetError as error:
        block_jobs(store, shard, str(error))
        return
    if fitting is None or not _reserve(store, fitting, jobs[0], owner=owner):
        return
    _send(store, api, fitting, owner=owner)


def may_leave(store: Store, shard: Shard, job: JobRecord) -> bool:
    """Tell whether it is worth trying to send a planned shard now: time, queue, cache and budgets."""
    ledger = store.ledger
    if shard.not_before > ledger.now() or not has_room(ledger.queued_requests(shard.account), shard.requests, job):
        return False
    return finds_cache(store, shard) and may_reserve(store, shard)


def finds_cache(store: Store, shard: Shard) -> bool:
    """Tell whether the batch that was to fill the cache has ended, if there is one."""
    if not Settings.of(store.ledger.planner_of(shard)).limits.prime_cache:
        return True
    first = store.ledger.own_shards(shard.job_id)[0]
    return first.shard == shard.shard or first.state == "collected"


def _send(store: Store, api: BatchesApi, shard: Shard, *, owner: str) -> None:
    ledger = store.ledger
    with (
        span("send", **traced(store, shard)) as opened,
        renewed(lambda: ledger.renew(shard.shard, owner=owner)),
        _released(store, shard, owner=owner),
    ):
        try:
            batch, size = _create(store, api, shard, owner=owner)
        except CreateRefusedError as refusal:
            opened.note(error__type=refusal.error_type or refusal.then)
            _refused(store, shard, refusal, owner=owner)
        except ChangedFilesError as error:
            ledger.set_aside(shard, error.positions, owner=owner, reason=CHANGED.error_message)
        except LeaseLostError:
            return
        else:
            if ledger.move(shard.shard, SUBMITTING, owned_by=owner, **adoption(batch)):
                opened.note(batch_id=batch.id, bytes=size)
                tell("batch.sent", **named(shard), **_sent(batch, size), attempt=shard.attempt)


def traced(store: Store, shard: Shard) -> dict[str, Any]:
    """Return what the span of a step with a shard begins with; it is linked to the submit of the shard's job."""
    job = store.ledger.planner_of(shard)
    model = {"gen_ai__provider__name": PROVIDER, "gen_ai__request__model": Settings.of(job).model}
    return {**model, "links_to": job.traceparent, **named(shard), "requests": shard.requests}


def named(shard: Shard) -> dict[str, object]:
    """Return what names a shard in logs and traces."""
    return {"job_id": shard.job_id, "shard": shard.shard}


def _sent(batch: Batch, size: int) -> dict[str, object]:
    return {"batch_id": batch.id, "requests": batch.requests, "bytes": size}


def _reserve(store: Store, shard: Shard, job: JobRecord, *, owner: str) -> bool:
    ledger = store.ledger
    with ledger.transaction():
        if not has_room(ledger.queued_requests(shard.account), shard.requests, job):
            return False
        return has_budget(store, shard) and ledger.lease(shard, owner=owner, to="uploading")


@contextmanager
def _released(store: Store, shard: Shard, *, owner: str) -> Iterator[None]:
    """Leave no lease behind: what was cut short before the last chunk is planned again."""
    ledger = store.ledger
    try:
        yield
    finally:
        ledger.move(shard.shard, UPLOADING, owned_by=owner, state="planned", owner=None)
        ledger.move(shard.shard, SUBMITTING, owned_by=owner, owner=None, submitting_at=ledger.now())


def _create(store: Store, api: BatchesApi, shard: Shard, *, owner: str) -> tuple[Batch, int]:
    ledger = store.ledger
    settings, encoding = Settings.of(store.ledger.planner_of(shard)), body_encoding()
    with store.spool() as spool:
        size = write_shard(store, shard, settings, spool, encoding=encoding)
        newest = api.newest_batch_id()

        def write_intent() -> None:
            now = ledger.now()
            intent = {"newest_batch_id": newest, "submitting_at": now, "api_ahead": api.now(default=now) - now}
            with ledger.transaction():
                wanted = ledger.waiting_jobs(shard.shard, WANTING_JOBS)  # a cancel may have come during the upload
                if not wanted or not ledger.move(shard.shard, UPLOADING, owned_by=owner, state="submitting", **intent):
                    raise LeaseLostError

        def is_complete() -> bool:
            return ledger.shard(shard.shard).state != "uploading"

        chunks = uploading(body_chunks(spool, before_last=write_intent), shard, size=size)
        options: dict[str, Any] = {"size": size, "betas": settings.form.betas, "encoding": encoding}
        return api.create(chunks, is_complete=is_complete, **options), size


def adoption(batch: Batch) -> dict[str, object]:
    """Return what the ledger records of a shard that has become a batch."""
    created_at = batch.created_at.timestamp()
    changes = {"state": "in_progress", "batch_id": batch.id, "created_at": created_at}
    return {**changes, "owner": None, "reason": None, "refusals": 0}


def _refused(store: Store, shard: Shard, refusal: CreateRefusedError, *, owner: str) -> None:
    if refusal.then != "doubtful":
        then = {"status": refusal.status, "then": refusal.then, "retry_after": refusal.retry_after}
        tell("batch.refused", **named(shard), **then, reason=str(refusal))
    match refusal.then:
        case "doubtful":
            reason = f"The answer to a create call was lost ({refusal}); looking whether the batch exists."
            if store.ledger.move(shard.shard, SUBMITTING, owned_by=owner, reason=reason):
                tell("batch.doubtful", **named(shard), reason=reason)
        case "later":
            _put_off(store, shard, refusal, owner=owner)
        case "halve" if shard.requests > 1:
            with store.ledger.transaction():
                if _give_back(store, shard, owner=owner, reason=str(refusal)):
                    store.ledger.split(shard)
        case "halve" | "blocked":
            if _give_back(store, shard, owner=owner, reason=None):
                block_jobs(store, shard, str(refusal))


def _put_off(store: Store, shard: Shard, refusal: CreateRefusedError, *, owner: str) -> None:
    ledger = store.ledger
    refusals = shard.refusals + 1
    back_off = min(_LONGEST_BACK_OFF_SECONDS, _BACK_OFF_SECONDS * 2 ** min(shard.refusals, _DOUBLINGS))
    seconds = refusal.retry_after if refusal.retry_after is not None else back_off
    changes = {"reason": f"{refusal} Trying again in {seconds:.0f} s.", "refusals": refusals}
    crowded = refusal.status == TOO_MANY and refusals >= _REFUSALS_BEFORE_HALVING
    with ledger.transaction():
        given_back = _give_back(store, shard, owner=owner, not_before=ledger.now() + seconds, **changes)
        if given_back and crowded and shard.requests > 1 and not ledger.queued_requests(shard.account):
            ledger.split(shard)


def _give_back(store: Store, shard: Shard, *, owner: str, **changes: object) -> bool:
    states = (*UPLOADING, *SUBMITTING)
    return store.ledger.move(shard.shard, states, owned_by=owner, state="planned", owner=None, **changes)


def block_jobs(store: Store, shard: Shard, reason: str, *, states: Collection[JobState] = WANTING_JOBS) -> None:
    """Stop every job that waits for a shard until its user has mended something and calls resume."""
    for job in store.ledger.waiting_jobs(shard.shard, states):
        if store.ledger.move_job(job.job_id, states, state="blocked", reason=reason):
            tell("job.blocked", job_id=job.job_id, reason=reason)


def block_until_resumed(store: Store, shard: Shard) -> None:
    """Block the jobs that wait for a shard that only its user may send, and those that have come to wait since."""
    with store.ledger.transaction():
        current = store.ledger.shard(shard.shard)
        if current.state == "planned" and current.not_before == UNTIL_RESUMED:
            block_jobs(store, current, current.reason or "")
