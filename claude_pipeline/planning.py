"""Planning a job: its input into requests, its requests into shards.

Planning may be killed anywhere and started anew: what this job claimed already is recognised by its rows.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from math import inf
from secrets import token_hex
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from claude_pipeline.arrays import give_back
from claude_pipeline.derived import PLAIN, AnswerOptions
from claude_pipeline.errors import InputError
from claude_pipeline.foreign import ForeignRows, write_foreign
from claude_pipeline.leases import LeaseLostError, new_owner, renewed
from claude_pipeline.ledger import Ledger
from claude_pipeline.logs import tell
from claude_pipeline.prompts import Request, RequestForm
from claude_pipeline.records import MAX_AGAIN, PLANNING, Claims, JobRecord
from claude_pipeline.retrying import NO_RETRIES, Retries, Retrying
from claude_pipeline.shards import ADDRESS, MAX_BYTES, MAX_REQUESTS, Members, Rows, ShardBuilder, too_large
from claude_pipeline.store import Store, read_batches
from claude_pipeline.unsent import Unsent, name_row
from claude_pipeline.values import Unsendable

_COUNTS = ("skipped", "invalid", "duplicates", "reused", "requests")
_PORTION_ROWS = 65_536  # so many of a ledger's claims lie on a page that several are found at once

_Placed = tuple[int, Request | Unsendable]


class Limits(msgspec.Struct, frozen=True):
    """How much goes out at once, and how often; another value never changes what a job is."""

    max_batch_requests: int
    max_batch_bytes: int
    max_queued_requests: int
    max_attempts: int
    prime_cache: bool = False
    max_cost_usd: float | None = None


Mode = Literal["batch", "stream", "recovered"]


class Settings(msgspec.Struct, frozen=True):
    """What a submit fixed for its job, as the ledger keeps it."""

    label: str
    form: RequestForm
    model: str
    id_column: str | None
    prefix: str
    base_url: str | None
    limits: Limits
    answers: AnswerOptions = PLAIN
    mode: Mode = "batch"
    retries: Retries = NO_RETRIES

    @classmethod
    def of(cls, job: JobRecord) -> "Settings":
        """Read the settings of a job."""
        return msgspec.json.decode(job.settings, type=cls)

    def check_known(self, job_id: str) -> None:
        """Make sure that it is known what a job asked.

        Raises:
            InputError: It was recovered, and results do not say what was asked.
        """
        if self.mode == "recovered":
            raise InputError(
                f"{job_id} was recovered from the results of {self.label}, which do not say what was asked. "
                "Submit the table that it came from: what is answered costs nothing, and the rest is asked."
            )

    @property
    def columns(self) -> set[str]:
        """Name the columns that planning reads: those of requests, and the one that names rows."""
        return self.form.columns | ({self.id_column} if self.id_column else set())


def check_limits(limits: Limits) -> None:
    """Make sure that limits can be kept.

    Raises:
        InputError: One cannot; names it.
    """
    for name, most in (("max_batch_requests", MAX_REQUESTS), ("max_batch_bytes", MAX_BYTES)):
        if not 1 <= _whole(limits, name) <= most:
            raise InputError(f"{name} is {getattr(limits, name):,}. A Message Batch takes from 1 to {most:,}.")
    for name in ("max_queued_requests", "max_attempts"):
        if _whole(limits, name) < 1:
            raise InputError(f"{name} is {getattr(limits, name):,}. It must be at least 1.")
    if limits.max_cost_usd is not None and not is_amount(limits.max_cost_usd):
        raise InputError(f"max_cost_usd is {limits.max_cost_usd!r}. Give dollars, such as max_cost_usd=25.")


def is_amount(dollars: object) -> bool:
    """Tell whether something may be a limit in dollars."""
    return isinstance(dollars, int | float) and not isinstance(dollars, bool) and 0 < dollars < inf


def _whole(limits: Limits, name: str) -> int:
    number = getattr(limits, name)
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"{name} is {number!r}. Give a whole number.")
    return number


def has_room(queued: int, requests: int, job: JobRecord) -> bool:
    """Tell whether requests fit into the queue beside what is there; into an empty one they always do."""
    return not queued or queued + requests <= Settings.of(job).limits.max_queued_requests


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
        planner.place()
        planner.plan_shard()
        planner.hold()
    if not job.asking:
        return {**planner.counts, "refusals": planner.refusals()}
    return {} if any(planner.counts.values()) else {"asking": MAX_AGAIN}


def _requests(store: Store, job: JobRecord) -> Iterator[tuple[int, pa.RecordBatch, Iterator[_Placed]]]:
    """Yield the input in batches, each with the number of its first row and what rows of it are asked."""
    settings = Settings.of(job)
    form, columns = settings.form, settings.columns
    if job.asking:
        yield from Retrying(form, settings.answers, settings.retries, columns).batches(store, job)
        return
    for first, batch in read_batches(store.input_path(job.job_id), columns):
        yield first, batch, enumerate(form.render(batch), first)


class _Waiting(NamedTuple):
    """Requests that wait to be placed: row, address and size of each, and why one cannot be sent unless it is known."""

    rows: list[int]
    addresses: list[bytes]
    sizes: list[int]
    refused: dict[int, tuple[Unsendable, str]]


class _Planner:
    """One walk over a job's input."""

    def __init__(self, ledger: Ledger, job: JobRecord, foreign: ForeignRows, *, owner: str) -> None:
        settings = Settings.of(job)
        self._id_column = settings.id_column
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._unsent = Unsent()
        self._ledger, self._job, self._foreign, self._owner = ledger, job, foreign, owner
        self._streams = settings.mode == "stream"
        limits = settings.limits
        largest = min(limits.max_batch_requests, limits.max_queued_requests)
        own = ledger.own_shards(job.job_id)
        first = 1 if limits.prime_cache and not own else largest
        self._builder = ShardBuilder(max_requests=first, max_bytes=limits.max_batch_bytes)
        self._largest = largest
        self._own = {shard.shard for shard in own}
        self._now = {shard.shard for shard in own if shard.asking == job.asking}
        asked = [ledger.members(shard).rows for shard in self._now]
        self._asked = np.concatenate([*asked, np.empty(0, dtype=np.int64)])
        self._answered: list[int] = []
        self._waiting = _Waiting([], [], [], {})

    def hold(self) -> None:
        """Go on only while nobody else has taken over the planning."""
        if not self._ledger.renew_job(self._job.job_id, owner=self._owner):
            raise LeaseLostError

    def refusals(self) -> str:
        """Say why rows cannot be sent, how many each, and of each the first."""
        return msgspec.json.encode(self._unsent.refusals).decode()

    def add_batch(self, first: int, batch: pa.RecordBatch, requests: Iterable[_Placed]) -> None:
        """Take the requests of rows in a batch, which begins with row `first`; many are placed together."""
        named = partial(name_row, batch, first=first, id_column=self._id_column)
        rows, addresses, sizes, refused = self._waiting
        largest = self._builder.largest
        for row, request in requests:
            if isinstance(request, Unsendable):
                self._refuse(row, request, named(row))
                continue
            if (size := len(request.head) + len(request.tail)) > largest:
                refused[len(rows)] = too_large(size, self._builder.max_bytes), named(row)
            rows.append(row)
            addresses.append(request.address)
            sizes.append(size)
        if len(rows) >= _PORTION_ROWS:
            self.place()

    def place(self) -> None:
        """Find out whose the requests are that were taken, and plan those that are nobody's."""
        waiting = self._waiting
        rows = np.array(waiting.rows, dtype=np.int64)
        addresses = np.frombuffer(b"".join(waiting.addresses), dtype=ADDRESS)
        claims = self._look_up(addresses)
        held = claims.hold
        own = held & np.isin(claims.shards, list(self._own))
        asked = own & np.isin(claims.shards, list(self._now)) & np.isin(rows, self._asked)
        self.counts["requests"] += int(np.count_nonzero(asked))
        self._leave("duplicates", rows, addresses, own & ~asked)
        self._leave("reused", rows, addresses, held & ~own, claims)
        twice = np.zeros(len(rows), dtype=bool)
        twice[self._gather(np.flatnonzero(~held).tolist())] = True
        self._leave("duplicates", rows, addresses, twice)
        self._waiting = _Waiting([], [], [], {})
        give_back()

    def _gather(self, unclaimed: Iterable[int]) -> list[int]:
        """Gather requests that nobody claims for shards, and plan those that are full; return which were there."""
        builder, twice = self._builder, list[int]()
        gathered, planned = builder.rows, set[bytes]()
        rows, addresses, sizes, refused = self._waiting
        for at in unclaimed:
            address = addresses[at]
            if address in gathered or address in planned:
                twice.append(at)
            elif at in refused:
                self._refuse(rows[at], *refused[at])
            elif not builder.add(address, rows[at], size=sizes[at]):
                planned.update(gathered)
                self.plan_shard()
                gathered = builder.rows
                builder.add(address, rows[at], size=sizes[at])
        return twice

    def _look_up(self, addresses: npt.NDArray[np.bytes_]) -> Claims:
        """Look up claims, and wait for the shards of others that hold some."""
        with self._ledger.transaction():
            claims = self._ledger.claims_on(self._job.account, addresses)
            others = set(np.unique(claims.shards[claims.hold]).tolist()) - self._own
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

    def _leave(
        self,
        count: str,
        rows: Rows,
        addresses: npt.NDArray[np.bytes_],
        which: npt.NDArray[np.bool_],
        claims: Claims | None = None,
    ) -> None:
        """Leave some of these rows to whoever asks the same; claims of them tell where an answer lies already."""
        if not which.any():
            return
        self.counts[count] += int(np.count_nonzero(which))
        if claims:
            answered = np.where(np.isin(claims.shards, self._answered), claims.shards, -1)
            claims = Claims(answered[which], claims.positions[which], claims.failed[which])
        self._foreign.leave(rows[which], addresses[which], claims)

    def plan_shard(self) -> None:
        """Make what was gathered a shard; requests that others claimed meanwhile are theirs."""
        if not self._builder.rows:
            return
        wanted = self._builder.take()
        self._builder.max_requests = self._largest
        with self._ledger.transaction():
            self.hold()
            stream_id = f"stream_{token_hex(12)}" if self._streams else None
            won = self._ledger.add_shard(self._job, wanted, stream_id=stream_id, owner=self._owner)
            self._own |= {shard.shard for shard in self._ledger.own_shards(self._job.job_id)}
            self.counts["requests"] += len(won)
            if len(won) < len(wanted):
                self._lose(wanted, won)

    def _lose(self, wanted: Members, won: Members) -> None:
        lost = ~np.isin(wanted.as_array(), won.as_array())
        rows, addresses = wanted.rows[lost], wanted.as_array()[lost]
        own = np.isin(self._look_up(addresses).shards, list(self._own))
        self._leave("duplicates", rows, addresses, own)
        self._leave("reused", rows, addresses, ~own)
