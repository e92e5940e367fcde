"""Planning a job: its input into requests, its requests into shards.

Planning may be killed anywhere and started anew: what this job claimed already is recognised by its rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from claude_pipeline.arrays import Flags, Numbers, give_back
from claude_pipeline.foreign import ForeignRows, write_foreign
from claude_pipeline.leases import LeaseLostError, new_owner, renewed
from claude_pipeline.ledger import Ledger
from claude_pipeline.logs import tell
from claude_pipeline.parquets import read_batches
from claude_pipeline.prompts import Requests, RowsAsked
from claude_pipeline.records import MAX_AGAIN, PLANNING, Claims, JobRecord
from claude_pipeline.retrying import Retrying
from claude_pipeline.settings import Settings
from claude_pipeline.shards import ADDRESS, Members, Rows, cut, largest_request, too_large
from claude_pipeline.store import Store
from claude_pipeline.unsent import Unsent, name_row
from claude_pipeline.values import Unsendable

_COUNTS = ("skipped", "invalid", "duplicates", "reused", "requests")
CLAIMED_AT_ONCE = 524_288  # the more claims are looked up and made at once, the more of them lie on each page


def plan(store: Store, job: JobRecord, *, owner: str) -> None:
    """Plan a job's shards, unless another process is at it."""
    ledger = store.ledger
    if not ledger.lease_job(job.job_id, owner=owner):
        return
    with renewed(lambda: ledger.renew_job(job.job_id, owner=owner)), suppress(LeaseLostError):
        try:
            counts = _plan(store, ledger.job(job.job_id) or job, owner=owner)  # it may be at another asking by now
            changes = {"state": "in_progress", "owner": None} | counts
            if ledger.move_job(job.job_id, PLANNING, owned_by=owner, **changes) and not job.asking:
                tell("job.planned", job_id=job.job_id, **{name: counts[name] for name in _COUNTS})
        finally:
            ledger.move_job(job.job_id, PLANNING, owned_by=owner, owner=None)


def give_up_planning(store: Store, job: JobRecord) -> None:
    """End the planning of a stream whose process is gone: nobody else may send what it would have asked."""
    ledger = store.ledger
    if ledger.lease_job(job.job_id, owner=(owner := new_owner())):
        ledger.move_job(job.job_id, PLANNING, owned_by=owner, state="in_progress", owner=None)


def _plan(store: Store, job: JobRecord, *, owner: str) -> dict[str, object]:
    with write_foreign(store, job) as foreign:
        planner = _Planner(store.ledger, job, foreign, owner=owner)
        for first, batch, requests in _requests(store, job):
            planner.add_batch(first, batch, requests)
        planner.place(last=True)
        planner.hold()
    if not job.asking:
        return {**planner.counts, "refusals": planner.refusals()}
    return {} if any(planner.counts.values()) else {"asking": MAX_AGAIN}


def _requests(store: Store, job: JobRecord) -> Iterator[tuple[int, pa.RecordBatch, Iterator[RowsAsked]]]:
    """Yield the input in batches, each with the number of its first row and what rows of it are asked."""
    settings = Settings.of(job)
    form, columns = settings.form, settings.columns
    if job.asking:
        yield from Retrying(form, settings.answers, settings.retries, columns).batches(store, job)
        return
    for first, batch in read_batches(store.input_path(job.job_id), columns):
        yield first, batch, form.ask(batch, np.arange(first, first + batch.num_rows))


class _Columns(NamedTuple):
    """Requests on their way into shards: the row, the address and the bytes of each."""

    rows: Rows
    addresses: npt.NDArray[np.bytes_]
    sizes: Numbers

    def pick(self, which: Flags | slice) -> "_Columns":
        """Keep some of them."""
        if isinstance(which, np.ndarray) and which.all():  # as nearly always; no copy is needed
            return self
        return _Columns(self.rows[which], self.addresses[which], self.sizes[which])


class _Planner:
    """One walk over a job's input."""

    def __init__(self, ledger: Ledger, job: JobRecord, foreign: ForeignRows, *, owner: str) -> None:
        settings = Settings.of(job)
        self._id_column = settings.id_column
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._unsent = Unsent()
        self._ledger, self._job, self._foreign, self._owner = ledger, job, foreign, owner
        self._streams = settings.mode == "stream"
        limits, own = settings.limits, ledger.own_shards(job.job_id)
        self._max_bytes = limits.max_batch_bytes
        self._max_requests = min(limits.max_batch_requests, limits.max_queued_requests)
        self._primes = limits.prime_cache and not own
        self._own = {shard.shard for shard in own}
        self._now = {shard.shard for shard in own if shard.asking == job.asking}
        asked = [ledger.members(shard).rows for shard in self._now]
        self._asked = np.concatenate([*asked, np.empty(0, dtype=np.int64)])
        self._answered: list[int] = []
        self._waiting: list[_Columns] = []
        self._too_large: dict[int, tuple[Unsendable, str]] = {}

    def hold(self) -> None:
        """Go on only while nobody else has taken over the planning."""
        if not self._ledger.renew_job(self._job.job_id, owner=self._owner):
            raise LeaseLostError

    def refusals(self) -> str:
        """Say why rows cannot be sent, how many each, and of each the first."""
        return msgspec.json.encode(self._unsent.refusals).decode()

    def add_batch(self, first: int, batch: pa.RecordBatch, asked: Iterable[RowsAsked]) -> None:
        """Take the requests of rows in a batch, which begins with row `first`; many are placed together."""
        named = partial(name_row, batch, first=first, id_column=self._id_column)
        taken = [self._take(*some, named) for some in asked]
        if taken:
            self._waiting.append(_joined(taken))
        if sum(len(some.rows) for some in self._waiting) >= CLAIMED_AT_ONCE:
            self.place()

    def _take(self, rows: Rows, requests: Requests, named: Callable[[int], str]) -> _Columns:
        for place, why in requests.refused.items():
            self._refuse(row := int(rows[place]), why, named(row))
        rows, requests = requests.sendable(rows)
        sizes = len(requests.head) + np.fromiter(map(len, requests.tails), dtype=np.int64, count=len(requests))
        for place in np.flatnonzero(sizes > largest_request(self._max_bytes)).tolist():
            row = int(rows[place])
            self._too_large[row] = too_large(int(sizes[place]), self._max_bytes), named(row)
        return _Columns(rows, np.frombuffer(b"".join(requests.addresses), dtype=ADDRESS), sizes)

    def place(self, *, last: bool = False) -> None:
        """Find out whose the requests are that were taken, and plan those that are nobody's.

        Those that fill no shard wait for more unless these are the last.
        """
        if not self._waiting:
            return
        requests = _joined(self._waiting)
        self._waiting.clear()
        free = self._once(self._sendable(self._unclaimed(requests)))
        ends = cut(free.sizes, max_requests=self._max_requests, max_bytes=self._max_bytes, first=self._primes)
        shards = [free.pick(slice(*span)) for span in pairwise(ends)]
        if not last:
            self._waiting += shards[-1:]
            del shards[-1:]
        for some in _together(shards):
            self._plan_shards(some)
        give_back(every=True)

    def _unclaimed(self, requests: _Columns) -> _Columns:
        """Leave the requests that somebody claims already to whoever does."""
        claims = self._look_up(requests.addresses)
        held = claims.stand
        own = held & np.isin(claims.shards, list(self._own))
        asked = own & np.isin(claims.shards, list(self._now)) & np.isin(requests.rows, self._asked)
        self.counts["requests"] += int(np.count_nonzero(asked))
        self._leave("duplicates", requests.pick(own & ~asked))
        self._leave("reused", requests.pick(held & ~own), claims.pick(held & ~own))
        return requests.pick(~held)

    def _sendable(self, free: _Columns) -> _Columns:
        """Refuse what fits into no batch."""
        fits = free.sizes <= largest_request(self._max_bytes)
        for row in free.rows[~fits].tolist():
            self._refuse(row, *self._too_large.pop(row))
        return free.pick(fits)

    def _once(self, free: _Columns) -> _Columns:
        """Leave all but the first of rows that ask the same to it."""
        first = np.zeros(len(free.rows), dtype=bool)
        first[np.unique(free.addresses, return_index=True)[1]] = True
        self._leave("duplicates", free.pick(~first))
        return free.pick(first)

    def _look_up(self, addresses: npt.NDArray[np.bytes_]) -> Claims:
        """Look up claims, and wait for the shards of others that hold some."""
        with self._ledger.transaction():
            claims = self._ledger.claims_on(self._job.account, addresses)
            others = set(np.unique(claims.shards[claims.stand]).tolist()) - self._own
            shards = [self._ledger.shard(shard) for shard in others]
            if self._streams:  # nobody is kept waiting for a batch who wants answers now
                shards = [shard for shard in shards if shard.state == "collected"]
            self._ledger.wait_for(self._job.job_id, [shard.shard for shard in shards])
        self._answered = [shard.shard for shard in shards if shard.has_results]
        return claims

    def _refuse(self, row: int, why: Unsendable, name: str) -> None:
        blank = why.error_type == "missing_prompt"
        self.counts["skipped" if blank else "invalid"] += 1
        if not blank:
            why = Unsendable(why.error_type, f"{name}: {why.error_message}")
            self._unsent.add(why)
        self._foreign.refuse(row, why)

    def _leave(self, count: str, some: _Columns, claims: Claims | None = None) -> None:
        """Leave rows to whoever asks the same; claims on them tell where an answer lies already."""
        self.counts[count] += len(some.rows)
        if claims:
            answered = np.isin(claims.shards, self._answered)
            claims = claims._replace(shards=np.where(answered, claims.shards, -1))
        self._foreign.leave(some.rows, some.addresses, claims)

    def _plan_shards(self, shards: Sequence[_Columns]) -> None:
        """Make these shards; requests that others claimed meanwhile are theirs."""
        wanted = [Members(some.addresses.tobytes(), some.rows) for some in shards]
        with self._ledger.transaction():
            self.hold()
            won = self._ledger.add_shards(self._job, wanted, streamed_by=self._owner if self._streams else None)
            self._own |= {shard.shard for shard in self._ledger.own_shards(self._job.job_id)}
            self._primes = False
            for some, members in zip(shards, won, strict=True):
                self.counts["requests"] += len(members)
                if len(members) < len(some.rows):
                    self._lose(some.pick(~np.isin(some.rows, members.rows)))

    def _lose(self, some: _Columns) -> None:
        own = np.isin(self._look_up(some.addresses).shards, list(self._own))
        self._leave("duplicates", some.pick(own))
        self._leave("reused", some.pick(~own))


def _joined(several: Iterable[_Columns]) -> _Columns:
    return _Columns(*map(np.concatenate, zip(*several, strict=True)))


def _together(shards: Iterable[_Columns]) -> Iterator[list[_Columns]]:
    """Group shards by how many requests are claimed at once."""
    group = list[_Columns]()
    for some in shards:
        group.append(some)
        if sum(len(each.rows) for each in group) >= CLAIMED_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
