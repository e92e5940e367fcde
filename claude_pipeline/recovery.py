"""Recovering: the ended batches of a workspace whose ids are ours come back into a store, empty or not.

It sends nothing and pays nothing. It may be killed anywhere and run again, and several may run at once.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from claude_pipeline.advancing import Advance
from claude_pipeline.arrays import Flags
from claude_pipeline.batches import BatchesApi
from claude_pipeline.collecting import collect
from claude_pipeline.display import plural
from claude_pipeline.errors import ApiError, ResultsError
from claude_pipeline.places import Place
from claude_pipeline.records import BEING_SENT, PLANNED, Shard
from claude_pipeline.recovered import RecoveredBatch, Recovery
from claude_pipeline.refusals import UNAUTHORIZED
from claude_pipeline.regaining import Lines, Read, fetch_lines, job_of, keep_input, record, write_lines
from claude_pipeline.sessions import Session, StorePath, existing_store
from claude_pipeline.sqlite import SQLITE
from claude_pipeline.store import Store, find_store
from claude_pipeline.transport import check_base_url, make_client
from claude_pipeline.wire import Batch

if TYPE_CHECKING:
    from anthropic import Anthropic

RESULTS_KEPT = timedelta(days=29)
_PLANNED = (
    "Batch {batch_id} was not read: it answers requests that {job_id} is about to send. Cancel that job, run `recover` "
    "again, then `resume` the job."
)
_BUSY = "Batch {batch_id} was not read: {job_id} is just sending requests that it answers. Run `recover` again later."

OnBatch = Callable[[RecoveredBatch], None]


def recover(
    *,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    dry_run: bool = False,
    on_batch: OnBatch | None = None,
) -> Recovery:
    """Read the ended batches of the workspace that were sent by this library back into a store.

    Whatever they answered is then in the store: the same submit as then finds it, and asks only what has no answer.
    The API keeps results for 29 days. Requests that errored are not regained, nor is what was streamed.

    Args:
        store: The folder of ledger, inputs and results, which is made if there is none.
        ledger: The record of jobs, if it is not a file in the store.
        base_url: Where the API is, if not where the SDK looks.
        client: An `anthropic.Anthropic` to use.
        dry_run: Read everything, and record nothing.
        on_batch: Is told of each batch that was read.

    Raises:
        CredentialsError: There is no API key.
        ApiError: The API refuses the credentials, or could not be reached.
        StoreError: The store cannot be written.
        InputError: A file of the user's own prices cannot be used.
    """
    check_base_url(base_url)
    client = client or make_client(base_url)
    with _opened(find_store(store), ledger, dry_run=dry_run) as opened:
        session = Session.start(opened, client)
        taken = Recovering(opened, session, base_url, dry_run=dry_run, on_batch=on_batch)
        return taken.run()


@contextmanager
def _opened(path: Place, ledger: str | None, *, dry_run: bool) -> Iterator[Store]:
    """Open the store; where there is none, looking makes none."""
    if not dry_run:
        yield Store(path, ledger)
    elif found := existing_store(path, ledger):
        yield found
    else:
        with TemporaryDirectory() as folder:
            yield Store(Path(folder), SQLITE)


class _LeftError(Exception):
    """A batch is left alone."""


@dataclass(slots=True)
class Recovering:
    """A recovery under way."""

    store: Store
    session: Session
    base_url: str | None
    dry_run: bool = False
    on_batch: OnBatch | None = None
    _batches: list[RecoveredBatch] = field(default_factory=list)
    _left: Counter[str] = field(default_factory=Counter)
    _notes: list[str] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)

    @property
    def _api(self) -> BatchesApi:
        return self.session.api

    def run(self) -> Recovery:
        """Read every batch that may be ours, the oldest first: what was paid first is what the store keeps."""
        if not self.dry_run:
            self._settle()
        for batch in reversed(self._candidates()):
            self.take(batch)
        return Recovery(
            account=self.store.ledger.account_name(self.session.account),
            is_rehearsal=self.dry_run,
            batches=tuple(self._batches),
            known=self._left["known"],
            running=self._left["running"],
            strangers=self._left["strangers"],
            notes=tuple(self._notes),
        )

    def _settle(self) -> None:
        """Let shards in doubt find their batches first."""
        Advance(self.store, self._api, self.session.account, self.session.owner).gather()

    def _candidates(self) -> list[Batch]:
        known = self.store.ledger.batch_ids()
        found = []
        for batch in kept_batches(self._api, default=self.store.ledger.now()):
            if batch.id in known:
                self._left["known"] += 1
            elif batch.processing_status != "ended":
                self._left["running"] += 1
            elif batch.has_results:
                found.append(batch)
        return found

    def take(self, batch: Batch) -> None:
        """Read a batch, unless it is a stranger's; trouble with one keeps no other waiting."""
        try:
            taken = self._take(batch)
        except _LeftError as left:
            self._notes.append(str(left))
        except (ApiError, ResultsError) as error:
            if isinstance(error, ApiError) and error.status == UNAUTHORIZED:
                raise
            self._notes.append(f"Batch {batch.id} was not read. {error} Run `recover` again.")
        else:
            if taken and self.on_batch:
                self.on_batch(taken)
            self._batches += [taken] if taken else []

    def _take(self, batch: Batch) -> RecoveredBatch | None:
        settled = self._api.seconds_until_settled(batch, default=self.store.ledger.now()) <= 0
        with self.store.spool() as file, self.store.spool_folder() as folder:
            lines = fetch_lines(self._api, batch, file, settled=settled)
            if lines is None:
                self._left["strangers"] += 1
                return None
            shard = self._planned_as(lines)
            if shard and not self.dry_run:
                return self._adopt(batch, shard)
            if not shard:
                self._check_undecided(batch, lines)
            if absent := batch.requests - len(lines.members):
                self._notes.append(
                    f"Of batch {batch.id} {plural(absent, 'line')} never came, and may have been billed."
                )
            read = write_lines(self.store, batch, lines, file, folder)
            return self._told(read) if self.dry_run else self._record(read)

    def _record(self, read: Read) -> RecoveredBatch | None:
        """Record a batch unless somebody else has done so: who settled it has its results in another order."""
        ledger, batch = self.store.ledger, read.batch
        keep_input(self.store, job_of(self.store, self.session.account, batch.id), read)
        with self.store.bringing_results(read.path, batch.id) as bring, ledger.transaction():
            if batch.id in ledger.batch_ids():
                self._left["known"] += 1
                return None
            self._check_undecided(batch, read.lines)
            told = self._told(read)
            record(self.store, self.session.account, read, base_url=self.base_url)
            bring()
        return told

    def _told(self, read: Read) -> RecoveredBatch:
        addresses = read.lines.answered_addresses
        claims = self.store.ledger.claims(self.session.account, addresses)
        answered = {address for address, claim in claims.items() if not claim.failed} | self._seen
        twice: Flags = np.array([address in answered for address in addresses], dtype=bool)
        if self.dry_run:
            self._seen.update(addresses)
        return RecoveredBatch(
            batch_id=read.batch.id,
            job_id=job_of(self.store, self.session.account, read.batch.id),
            created_at=read.batch.created_at.timestamp(),
            requests=len(read.lines.members),
            answers=read.lines.answered,
            regained=int((~twice).sum()),
            cost_usd=read.outcome.cost_usd,
            paid_twice=int(twice.sum()),
            paid_twice_usd=read.usd(twice),
        )

    # What the store is about to ask itself

    def _claiming(self, addresses: list[bytes]) -> list[Shard]:
        ledger = self.store.ledger
        claims = ledger.claims(self.session.account, addresses)
        return [
            ledger.shard(number) for number in sorted({claim.shard for claim in claims.values() if not claim.failed})
        ]

    def _check_undecided(self, batch: Batch, lines: Lines) -> None:
        """Leave a batch alone whose requests the store is about to send: it could not take them back."""
        for shard in self._claiming(lines.answered_addresses):
            if shard.state == "planned":
                raise _LeftError(_PLANNED.format(batch_id=batch.id, job_id=shard.job_id))
            if shard.state in BEING_SENT:
                raise _LeftError(_BUSY.format(batch_id=batch.id, job_id=shard.job_id))

    def _planned_as(self, lines: Lines) -> Shard | None:
        """Return the planned shard that a batch is, if it was sent as one whose create call was given up as lost."""
        claiming = self._claiming(lines.members.split())
        if len(claiming) != 1 or claiming[0].state != "planned" or claiming[0].requests != len(lines.members):
            return None
        members = self.store.ledger.members(claiming[0].shard)
        return claiming[0] if set(members.split()) == set(lines.members.split()) else None

    def _adopt(self, batch: Batch, shard: Shard) -> RecoveredBatch | None:
        """Let a shard have the batch that it was sent as, and collect it."""
        ledger = self.store.ledger
        created_at = batch.created_at.timestamp()
        ended_at = (batch.ended_at or batch.created_at).timestamp()
        changes = {"state": "ended", "batch_id": batch.id, "created_at": created_at, "ended_at": ended_at}
        if not ledger.move(shard.shard, PLANNED, owned_by=None, refusals=0, not_before=0.0, reason=None, **changes):
            raise _LeftError(_BUSY.format(batch_id=batch.id, job_id=shard.job_id))
        collect(self.store, self._api, ledger.shard(shard.shard), batch, owner=self.session.owner)
        found = ledger.shard(shard.shard)
        return RecoveredBatch(
            batch_id=batch.id,
            job_id=shard.job_id,
            created_at=created_at,
            requests=batch.requests,
            answers=found.succeeded,
            regained=found.succeeded,
            cost_usd=found.cost_usd,
            paid_twice=0,
            paid_twice_usd=0.0,
        )


def kept_batches(api: BatchesApi, *, default: float) -> Iterator[Batch]:
    """Yield the batches of the workspace whose results the API may still keep, the newest first."""
    for batch in api.newest_first():
        if api.now(default=default) - batch.created_at.timestamp() > RESULTS_KEPT.total_seconds():
            return
        yield batch
