"""What is kept no longer: inputs and answers in the store, and batches at the API.

First the ledger forgets the claims, then the file goes: killed in between, no claim points to a file that is missing,
and the next prune removes what was left.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from claude_pipeline.billing import sum_up_later
from claude_pipeline.errors import InputError
from claude_pipeline.examining import fault_of
from claude_pipeline.records import JobRecord, Shard
from claude_pipeline.sessions import Session, StorePath, existing_store
from claude_pipeline.settings import Settings
from claude_pipeline.status import total_usd
from claude_pipeline.store import Store, find_store
from claude_pipeline.transport import make_client

if TYPE_CHECKING:
    from anthropic import Anthropic

Age = str | timedelta | None

_AGE = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*([hdw])\s*")
_SECONDS = {"h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}


@dataclass(frozen=True, slots=True)
class PrunedJob:
    """A job whose input and answers go.

    Attributes:
        ended_at: Seconds since the epoch.
        cost_usd: What the answers have cost that go with it, in dollars; None where a price is unknown.
        bytes: What its input and those answers take in the store.
    """

    job_id: str
    name: str | None
    rows: int
    ended_at: float
    cost_usd: float | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What goes, or has gone.

    Attributes:
        jobs: The jobs, the one that ended first at the beginning.
        answers: Files of answers that no other job needs.
        shared: Files of answers of these jobs that stay, because other jobs need them.
        cost_usd: What the answers have cost that go, in dollars: to ask them again would cost as much.
        bytes: What is freed, files included that a killed prune has left.
        batches: Batches that are deleted at the API; the store keeps what they answered.
        foreign_batches: How many stay because they belong to another account than the client's.
    """

    jobs: tuple[PrunedJob, ...] = ()
    answers: int = 0
    shared: int = 0
    cost_usd: float | None = 0.0
    bytes: int = 0
    batches: tuple[str, ...] = ()
    foreign_batches: int = 0

    def __bool__(self) -> bool:
        return bool(self.jobs or self.answers or self.bytes or self.batches)


def prune(
    *,
    older_than: Age = None,
    batches_older_than: Age = None,
    dry_run: bool = False,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
) -> Pruned:
    """Remove old inputs and answers from a store, or old batches at the API; `costs` counts them for ever.

    A job goes when it ended, and was last submitted, that long ago: its input, and the answers that no other job
    needs. Open and blocked jobs stay as they are. Whoever submits the same rows later has them asked, and paid for,
    again. It may be killed at any time and called again.

    Args:
        older_than: The age of jobs: a `timedelta`, or text such as "30d", "12h" or "4w".
        batches_older_than: How long ago a batch was collected that is to be deleted at the API, where it would stay
            for 29 days. The store keeps its answers.
        dry_run: Only say what would go.
        store: The store, as for `submit`.
        ledger: Its ledger, as for `submit`.
        base_url: Where the API is, if not where the jobs asked.
        client: An `anthropic.Anthropic` to delete batches with.

    Raises:
        InputError: Neither age is given, or one is none.
        ApiError: A batch could not be deleted; what was done is recorded.
        StoreError: The store cannot be written; what was done is recorded.
    """
    ages = _seconds("older_than", older_than), _seconds("batches_older_than", batches_older_than)
    if ages == (None, None):
        raise InputError('Nothing is old by itself. Pass older_than="30d", batches_older_than="1d" or both.')
    opened = existing_store(find_store(store), ledger)
    if opened is None:
        return Pruned()
    now = opened.ledger.now()
    before, batches_before = (None if age is None else now - age for age in ages)
    deletions = [] if batches_before is None else _deletions(opened, batches_before, base_url, client)
    found = _find(opened, before, deletions)
    if not dry_run:
        for deletion in deletions:
            deletion.run(opened)
        if before is not None:
            _prune(opened, before)
    return found


def _seconds(name: str, age: Age) -> float | None:
    if age is None:
        return None
    if isinstance(age, timedelta):
        seconds = age.total_seconds()
    elif found := _AGE.fullmatch(str(age)):
        seconds = float(found[1]) * _SECONDS[found[2]]
    else:
        raise InputError(f"{name} is {age!r}, which is no age. Give one such as 30d, 12h or 4w.")
    if seconds < 0:
        raise InputError(f"{name} is {age!r}, which is still to come. Give an age such as 30d.")
    return seconds


# In the store


def _find(store: Store, before: float | None, deletions: Sequence["_Deletion"]) -> Pruned:
    jobs = [] if before is None else store.ledger.old_jobs(before)
    going = [] if before is None else store.ledger.unneeded_shards(before)
    sizes = {shard.shard: store.results_bytes(shard.results_id) if shard.results_id else 0 for shard in going}
    pruned = tuple(_describe(store, job, going, sizes) for job in jobs)
    theirs = [shard for job in jobs for shard in store.ledger.own_shards(job.job_id) if not shard.pruned_at]
    has_file = [shard for shard in theirs if shard.results_id and shard.shard not in sizes]
    inputs = sum(store.job_bytes(job.job_id) for job in jobs)
    return Pruned(
        jobs=pruned,
        answers=sum(bool(size) for size in sizes.values()),
        shared=len(has_file),
        cost_usd=total_usd(shard.cost_usd for shard in going),
        bytes=inputs + sum(sizes.values()) + (0 if before is None else _left_bytes(store)),
        batches=tuple(shard.batch_id or "" for deletion in deletions for shard in deletion.shards),
        foreign_batches=sum(deletion.foreign for deletion in deletions),
    )


def _describe(store: Store, job: JobRecord, going: Sequence[Shard], sizes: dict[int, int]) -> PrunedJob:
    own = [shard for shard in going if shard.job_id == job.job_id]
    return PrunedJob(
        job.job_id,
        job.name,
        job.rows,
        job.ended_at or 0.0,
        total_usd(shard.cost_usd for shard in own),
        store.job_bytes(job.job_id) + sum(sizes[shard.shard] for shard in own),
    )


def _left(store: Store) -> tuple[set[str], set[str]]:
    """Name the pruned jobs and results that still have files."""
    ledger = store.ledger
    return ledger.pruned_jobs() & store.job_ids(), ledger.pruned_results() & store.results_ids()


def _left_bytes(store: Store) -> int:
    jobs, results = _left(store)
    return sum(map(store.job_bytes, jobs)) + sum(map(store.results_bytes, results))


def _prune(store: Store, before: float) -> None:
    """Forget in the ledger, then remove the files of all that it has forgotten, now or before."""
    ledger = store.ledger
    unneeded = {shard.shard for shard in ledger.unneeded_shards(before)}
    for shard in ledger.unknown_usage():
        if shard.shard in unneeded:
            sum_up_later(store, shard)
    ledger.prune_jobs(before)
    for shard in ledger.unneeded_shards():
        ledger.prune_shard(shard)
    jobs, results = _left(store)
    for results_id in results:
        store.remove_results(results_id)
    for job_id in jobs:
        with ledger.transaction():
            job = ledger.job(job_id)
            if job and job.pruned_at is not None:  # nobody has submitted it anew
                store.remove_job(job_id)


# At the API


@dataclass(frozen=True, slots=True)
class _Deletion:
    """Batches that one client deletes."""

    session: Session
    shards: tuple[Shard, ...]
    foreign: int

    def run(self, store: Store) -> None:
        for shard in self.shards:
            self.session.api.delete(shard.batch_id or "")
            store.ledger.note_deleted(shard.shard)


def _deletions(store: Store, before: float, base_url: str | None, client: "Anthropic | None") -> list[_Deletion]:
    shards = [shard for shard in store.ledger.deletable_batches(before) if shard.pruned_at or _is_kept(store, shard)]
    places: dict[str | None, list[Shard]] = {}
    for shard in shards:
        place = base_url or Settings.of(store.ledger.planner_of(shard)).base_url
        places.setdefault(None if client else place, []).append(shard)
    return [_deletion(store, theirs, client or make_client(place)) for place, theirs in places.items()]


def _is_kept(store: Store, shard: Shard) -> bool:
    """Tell whether the store can do without the API: one that is missing or damaged here may be fetched again."""
    return fault_of(store, store.results_path(shard.results_id), rows=shard.requests, thorough=True) is None


def _deletion(store: Store, shards: Sequence[Shard], client: "Anthropic") -> _Deletion:
    session = Session.start(store, client)
    ours = tuple(shard for shard in shards if shard.account == session.account)
    return _Deletion(session, ours, len(shards) - len(ours))
