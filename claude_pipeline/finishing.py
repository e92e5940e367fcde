"""Ending jobs: once all that a job waits for is collected, it has ended, or asks again."""

from claude_pipeline.foreign import Foreign
from claude_pipeline.journal import end_stream
from claude_pipeline.logs import tell
from claude_pipeline.records import MAX_AGAIN, OPEN_JOBS, STREAMING, WANTING_JOBS, JobRecord
from claude_pipeline.settings import Settings
from claude_pipeline.status import rounded_usd, total_usd
from claude_pipeline.store import Store


def end_abandoned_streams(store: Store, account: int) -> None:
    """Keep what runs had answered that were killed, and end their jobs."""
    for shard in store.ledger.shards(account, STREAMING):
        if store.ledger.is_abandoned(shard):
            end_stream(store, shard)
            finish(store, store.ledger.planner_of(shard))


def finish(store: Store, job: JobRecord) -> bool:
    """End an open job once all that it waits for is collected; tell if it asks again instead."""
    if job.state not in OPEN_JOBS or not _is_done(store, job):
        return False
    ledger = store.ledger
    more = job.state != "canceling" and job.asking < MAX_AGAIN and bool(Settings.of(job).retries)
    unanswered = None if more else count_unanswered(store, job)
    with ledger.transaction():
        current = ledger.job(job.job_id)
        if not current or current.asking != job.asking or not _is_done(store, job):  # resumed meanwhile, or gone on
            return False
        if more:
            tell("job.asks_again", job_id=job.job_id, asking=job.asking + 1)
            return ledger.move_job(job.job_id, (job.state,), state="planning", asking=job.asking + 1)
        if ledger.move_job(job.job_id, (job.state,), state="ended", unanswered=unanswered, ended_at=ledger.now()):
            told = {"rows": job.rows, "unanswered": unanswered, "cost_usd": _cost_usd(store, job)}
            tell("job.ended", job_id=job.job_id, job_name=job.name, **told)
    return False


def _cost_usd(store: Store, job: JobRecord) -> float | None:
    return rounded_usd(total_usd(shard.cost_usd for shard in store.ledger.own_shards(job.job_id)))


def _is_done(store: Store, job: JobRecord) -> bool:
    ledger = store.ledger
    awaited = ledger.awaited_shards(job.job_id)
    if job.state == "canceling":
        awaited = [s for s in awaited if not ledger.waiting_jobs(s.shard, WANTING_JOBS)]
    return job.state != "planning" and all(shard.state == "collected" for shard in awaited)


def count_unanswered(store: Store, job: JobRecord) -> int:
    """Count the rows of a job that could have an answer and have none; what was asked again had one."""
    own = sum(shard.succeeded for shard in store.ledger.own_shards(job.job_id) if not shard.asking)
    elsewhere = sum(int(run.is_answered.sum()) for run in Foreign(store, job).located())
    return job.rows - job.skipped - own - elsewhere
