"""One idempotent step: compare what is wanted with what is, and do what is missing.

A sensor, cron, a notebook and a shell may all take it at once, and it may be killed anywhere and taken again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from claude_pipeline.batches import BatchesApi
from claude_pipeline.collecting import collect, record_gone
from claude_pipeline.errors import ApiError, PipelineError
from claude_pipeline.files import reading
from claude_pipeline.finishing import end_abandoned_streams, finish
from claude_pipeline.logs import tell
from claude_pipeline.planning import give_up_planning, plan
from claude_pipeline.records import (
    CANCELING,
    ENDED,
    OPEN_JOBS,
    PLANNED,
    PLANNING,
    RUNNING,
    SUBMITTING,
    UPLOADING,
    WANTING_JOBS,
    JobRecord,
    Shard,
    ShardState,
)
from claude_pipeline.refusals import NOT_FOUND, UNAUTHORIZED, is_passing
from claude_pipeline.reports import Note
from claude_pipeline.sending import UNTIL_RESUMED, block_until_resumed, send
from claude_pipeline.settings import Settings
from claude_pipeline.settling import settle
from claude_pipeline.store import Store
from claude_pipeline.wire import Batch

_PASSING_404_SECONDS = 600.0
_MOST_TOLD = 5


@dataclass(slots=True)
class Advance:
    """A step over one store as one account, for one job or for all.

    Attributes:
        unless_polled_within: A poll by anybody in the last so many seconds will do.
        notes: What could not be done just now.
        errors: What cannot be done before somebody mends it; the first one is raised, with what the others say, when
            all else is done.
    """

    store: Store
    api: BatchesApi
    account: int
    owner: str
    job_id: str | None = None
    unless_polled_within: float = 0.0
    notes: list[Note] = field(default_factory=list)
    errors: list[PipelineError] = field(default_factory=list)
    _has_more: bool = False

    def run(self) -> None:
        """Settle, poll, collect, plan, cancel, send and finish, as far as each is due."""
        self.gather()
        self._has_more = True
        while self._has_more:
            self._has_more = False
            for job in self._jobs(PLANNING):
                self._attempt(partial(self._plan, job))
            for job in self._jobs(CANCELING):
                self._attempt(partial(self._cancel, job))
            self._each(self._shards(PLANNED), self._send)
            for job in self._jobs((*CANCELING, *WANTING_JOBS)):
                self._attempt(partial(self._finish, job))
        self._raise()

    def gather(self) -> None:
        """Settle what was left behind, poll, and collect what ended. Nothing is sent."""
        self._each(self._shards((*UPLOADING, *SUBMITTING)), self._settle)
        self._attempt(partial(end_abandoned_streams, self.store, self.account))
        self._attempt(self._poll)
        self._each(self._ended(), self._collect)

    def poll(self) -> None:
        """Ask the API's list how the running batches stand. It transfers no results.

        Trouble with one batch is noted: whoever polls has others to look after.
        """
        self._poll()

    def _raise(self) -> None:
        if not self.errors:
            return
        told = list(dict.fromkeys(map(str, self.errors)))
        more = [f"And {len(told) - _MOST_TOLD:,} more errors."] if len(told) > _MOST_TOLD else []
        first = self.errors[0]
        first.args = (" ".join([*told[:_MOST_TOLD], *more]),)
        raise first

    def _jobs(self, states: tuple[str, ...]) -> list[JobRecord]:
        jobs = self.store.ledger.jobs(OPEN_JOBS, account=self.account)
        return [job for job in jobs if job.state in states and self.job_id in {None, job.job_id}]

    def _shards(self, states: tuple[ShardState, ...]) -> list[Shard]:
        return self.store.ledger.shards(self.account, states, job_id=self.job_id)

    def _attempt(self, step: Callable[[], None], shard: Shard | None = None) -> None:
        """Take a step. What fails changes nothing, and keeps no other step from being taken."""
        try:
            step()
        except PipelineError as error:
            if isinstance(error, ApiError) and is_passing(error):
                self._note(f"{error} Trying again.", shard)
                return
            self._note(str(error), shard)
            unauthorized = isinstance(error, ApiError) and error.status == UNAUTHORIZED
            if unauthorized or self._is_asked_for(shard):
                self.errors.append(error)
            if unauthorized:
                self._raise()

    def _is_asked_for(self, shard: Shard | None) -> bool:
        """Tell whether a step is for the job that is advanced: one list shows the batches of all."""
        jobs = self.store.ledger.waiting_jobs(shard.shard) if shard else []
        return shard is None or self.job_id in {None, *(job.job_id for job in jobs)}

    def _note(self, words: str, shard: Shard | None) -> None:
        self.notes.append(Note(words, shard.shard if shard else None))
        of = {"job_id": shard.job_id, "shard": shard.shard} if shard else {"job_id": self.job_id}
        tell("job.put_off", **of, reason=words)

    def _ended(self) -> list[Shard]:
        """List what can be collected; with a budget of the store the batches of other jobs hold some of it as well."""
        ledger = self.store.ledger
        return ledger.shards(self.account, ENDED) if ledger.is_limited else self._shards(ENDED)

    def _each(self, shards: list[Shard], step: Callable[[Shard], None]) -> None:
        for shard in shards:
            self._attempt(partial(step, shard), shard)

    def _settle(self, shard: Shard) -> None:
        # Settling another one may have taken minutes; its owner has renewed the lease meanwhile, or not.
        shard = self.store.ledger.shard(shard.shard)
        if shard.state not in (*UPLOADING, *SUBMITTING) or not self.store.ledger.is_abandoned(shard):
            return
        if shard.state == "uploading":
            self.store.ledger.take_back(shard)
        else:
            settle(self.store, self.api, shard)

    def _poll(self) -> None:
        """Look at all batches of the account: one list serves every job that waits, and every process."""
        ledger = self.store.ledger
        running = {shard.batch_id: shard for shard in ledger.shards(self.account, RUNNING)}
        if not running or not ledger.begin_poll(self.account, unless_within=self.unless_polled_within):
            return
        oldest = min((shard.created_at or 0 for shard in running.values()), default=0)
        for batch in self.api.newest_first(at_least=len(running)):
            shard = running.pop(batch.id, None)
            if shard:
                self._observe(shard, batch)
            if not running or batch.created_at.timestamp() < oldest:
                break
        for shard in running.values():
            self._attempt(partial(self._look_closer, shard), shard)

    def _look_closer(self, shard: Shard) -> None:
        """Ask for one batch that the list did not show."""
        if batch := self._retrieve(shard):
            self._observe(shard, batch)

    def _collect(self, shard: Shard) -> None:
        """Collect a batch that ended, by what the API counts now; what did not agree waits for `resume`."""
        ledger = self.store.ledger
        if not ledger.is_abandoned(shard) or (shard.reason and not ledger.waiting_jobs(shard.shard)):
            return
        if shard.not_before > ledger.now():
            return
        if batch := self._retrieve(shard):
            try:
                collect(self.store, self.api, shard, batch, owner=self.owner)
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
                # The API has just shown the batch and keeps its results: this is no end.
                self._note(f"{error} Trying again.", shard)

    def _retrieve(self, shard: Shard) -> Batch | None:
        """Ask for one batch, and record it if it is gone."""
        batch = self.api.retrieve(shard.batch_id or "")
        if batch and not batch.archived_at:
            return batch
        if batch:
            record_gone(self.store, shard)
        elif self._is_listed(shard):
            self._note(f"The API lists batch {shard.batch_id}, but does not show it just now. Trying again.", shard)
        else:
            self._miss(shard, since=shard.created_at)
        return None

    def _is_listed(self, shard: Shard) -> bool:
        for batch in self.api.newest_first():
            if batch.id == shard.batch_id or batch.created_at.timestamp() < (shard.created_at or 0):
                return batch.id == shard.batch_id
        return False

    def _miss(self, shard: Shard, *, since: float | None) -> None:
        """Take a 404 for passing while the batch is young, by the API's clock, and for the end of it later."""
        if self.api.now(default=self.store.ledger.now()) - (since or 0) > _PASSING_404_SECONDS:
            record_gone(self.store, shard)
        else:
            self._note(f"The API knows nothing of batch {shard.batch_id} just now. Trying again.", shard)

    def _observe(self, shard: Shard, batch: Batch) -> None:
        ledger = self.store.ledger
        if batch.processing_status == "ended":
            ended_at = batch.ended_at.timestamp() if batch.ended_at else ledger.now()
            if ledger.move(shard.shard, RUNNING, state="ended", ended_at=ended_at):
                told = {"batch_id": batch.id, "requests": batch.requests, "request_counts": batch.request_counts}
                tell("batch.ended", job_id=shard.job_id, shard=shard.shard, **told)
        elif batch.processing_status != shard.state:
            ledger.move(shard.shard, RUNNING, state=batch.processing_status)

    def _plan(self, job: JobRecord) -> None:
        if Settings.of(job).mode == "stream":
            give_up_planning(self.store, job)
            return
        with reading(self.store.input_path(job.job_id)):
            plan(self.store, job, owner=self.owner)

    def _send(self, shard: Shard) -> None:
        if shard.not_before == UNTIL_RESUMED:
            block_until_resumed(self.store, shard)
        else:
            send(self.store, self.api, shard, owner=self.owner)

    def _cancel(self, job: JobRecord) -> None:
        """Carry out the wish: planned shards go, running ones are canceled, what another job waits for stays."""
        for shard in self.store.ledger.awaited_shards(job.job_id):
            if self.store.ledger.waiting_jobs(shard.shard, WANTING_JOBS):
                continue
            if shard.state == "planned":
                self.store.ledger.cancel_planned(shard.shard)
            elif shard.state == "in_progress":
                self._attempt(partial(self._cancel_batch, shard), shard)

    def _cancel_batch(self, shard: Shard) -> None:
        """Ask for it; whether a batch that may not be canceled has ended or is gone shows when one looks."""
        self.store.ledger.move(shard.shard, RUNNING, cancel_wanted=1)
        try:
            self._observe(shard, self.api.cancel(shard.batch_id or ""))
        except ApiError as error:
            if is_passing(error) or error.status == UNAUTHORIZED:
                raise
            self._look_closer(shard)
            if self.store.ledger.shard(shard.shard).state in RUNNING:
                self._note(f"Batch {shard.batch_id} runs on: {error}", shard)

    def _finish(self, job: JobRecord) -> None:
        self._has_more |= finish(self.store, job)
