"""The durable record: jobs, the shards they wait for, who claims which request, and who works on what.

A sensor, a notebook, cron and a shell may all work on one store at once, and any of them may die anywhere: a request
has one claim, and a shard or a planning one owner at a time.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from secrets import token_hex
from typing import Any

import numpy as np
import numpy.typing as npt

from claude_pipeline.arrays import Numbers
from claude_pipeline.books import Books
from claude_pipeline.database import DIGITS
from claude_pipeline.leases import LEASE_SECONDS, is_dead
from claude_pipeline.logs import tell
from claude_pipeline.records import (
    AT_REST,
    CANCELING,
    COLLECTED,
    FAILED,
    PLANNED,
    PLANNING,
    SUBMITTING,
    UPLOADING,
    WANTING_JOBS,
    Claim,
    Claims,
    JobRecord,
    Shard,
    ShardState,
)
from claude_pipeline.shards import Members

CLAIMS_A_STATEMENT = 65_536
_TALLIES = {number: tally for tally, number in FAILED.items()}


class Ledger(Books):
    """The record of one store."""

    # Claims

    def claims(self, account: int, addresses: Iterable[bytes]) -> dict[bytes, Claim]:
        """Look up who claims these requests, by their addresses."""
        wanted = sorted(addresses)
        return {wanted[at]: Claim(*claim) for at, *claim in self._database.find_claims(account, b"".join(wanted))}

    def claims_on(self, account: int, addresses: npt.NDArray[np.bytes_]) -> Claims:
        """Look up who claims these requests, one by one; many at once."""
        columns = np.full((3, len(addresses)), -1, dtype=np.int64)
        for some in _ascending(addresses):
            distinct, at = np.unique(addresses[some], return_inverse=True)
            claims = self._database.find_claims(account, distinct.tobytes())
            places, *told = np.fromiter(chain.from_iterable(claims), dtype=np.int64).reshape(-1, 4).T
            found = np.full((3, len(distinct)), -1, dtype=np.int64)
            found[:, places] = told
            columns[:, some] = found[:, at]
        return Claims(*columns)

    def wait_for(self, job_id: str, shards: Iterable[int]) -> None:
        """Let a job wait for shards of others."""
        self._database.run_many(
            "INSERT INTO job_shards VALUES (?, ?) ON CONFLICT DO NOTHING", [(job_id, shard) for shard in shards]
        )

    def add_shards(
        self, job: JobRecord, planned: Sequence[Members], *, streamed_by: str | None = None
    ) -> list[Members]:
        """Plan shards, claim their requests and let their job wait for them; return the members that each has won.

        A request that another shard claimed in the meantime is not among them, and where none is left, there is no
        shard. Shards that are `streamed_by` an owner are never planned: nobody may send them as batches.
        """
        with self.transaction():
            shards = [self._insert_shard(job, members, 1) for members in planned]
            for shard in shards if streamed_by else ():
                changes: dict[str, Any] = {"stream_id": f"stream_{token_hex(12)}", "owner": streamed_by}
                self.move(shard, PLANNED, state="streaming", lease_until=self.now() + LEASE_SECONDS, **changes)
            self._retract_failures(job, planned)
            if self._claim(job.account, shards, planned) < sum(map(len, planned)):
                pairs = zip(shards, planned, strict=True)
                planned = [self._keep_won(job.account, shard, members) for shard, members in pairs]
            for shard, members in zip(shards, planned, strict=True):
                if not members:
                    self._delete_shard(shard)
                    continue
                self._database.run("INSERT INTO job_shards VALUES (?, ?)", (job.job_id, shard))
                tell("batch.planned", job_id=job.job_id, shard=shard, requests=len(members))
        return [*planned]

    def _claim(self, account: int, shards: Sequence[int], planned: Sequence[Members]) -> int:
        """Claim the requests of shards, unless others have them; return how many were won."""
        addresses = np.concatenate([members.as_array() for members in planned])
        starts, numbers, won = np.cumsum([0, *map(len, planned)]), np.array(shards), 0
        for some in _ascending(addresses):
            of = np.searchsorted(starts, some, side="right") - 1
            digits = _digits(numbers[of]), _digits(some - starts[of])
            won += self._database.claim(account, addresses[some].tobytes(), *digits)
        return won

    def add_collected(
        self, job: JobRecord, members: Members, *, answered: int, collected_at: float, **changes: object
    ) -> int:
        """Record a shard whose results are there, for a job that needs it; claim those answers that nobody else has.

        The first `answered` of its members have one. The others stay unclaimed: whoever wants them asks. Returns the
        number of the shard.
        """
        with self.transaction():
            shard = self._insert_shard(job, members, 1)
            if answered:
                self._claim(job.account, [shard], [members.pick(range(answered))])
            self.move(shard, PLANNED, owned_by=None, **changes)
            self.move(shard, COLLECTED, collected_at=collected_at)  # which is not when it got here
            self._database.run("INSERT INTO job_shards VALUES (?, ?)", (job.job_id, shard))
        return shard

    def _insert_shard(self, of: JobRecord | Shard, members: Members, attempt: int) -> int:
        ((shard,),) = self._database.rows(
            "INSERT INTO shards (account, job_id, state, asking, attempt, requests, first_row, last_row)"
            " VALUES (?, ?, 'planned', ?, ?, ?, ?, ?) RETURNING shard",
            (of.account, of.job_id, of.asking, attempt, len(members), int(members.rows[0]), int(members.rows[-1])),
        )
        parameters = (shard, members.addresses, members.rows.tobytes())
        self._database.run("INSERT INTO members VALUES (?, ?, ?)", parameters)
        return int(shard)

    def _retract_failures(self, job: JobRecord, planned: Iterable[Members]) -> None:
        """Take requests that are asked again out of the tallies of this job's earlier shards."""
        failed = {s.shard for s in self.own_shards(job.job_id) if s.errored or s.canceled or s.expired}
        for members in planned if failed else ():
            for claim in self.claims(job.account, members.split()).values():
                if claim.failed and claim.shard in failed:
                    tally = _TALLIES[claim.failed]
                    self._database.run(f"UPDATE shards SET {tally} = {tally} - 1 WHERE shard = ?", (claim.shard,))

    def _keep_won(self, account: int, shard: int, members: Members) -> Members:
        claims = self.claims(account, members.split())
        won = [i for i, address in enumerate(members.split()) if claims[address].shard == shard]
        return self._shrink(account, shard, members.pick(won))

    def _shrink(self, account: int, shard: int, kept: Members) -> Members:
        self._database.run_many(
            "UPDATE claims SET position = ? WHERE account = ? AND address = ?",
            [(i, account, address) for i, address in enumerate(kept.split())],
        )
        self._database.run(
            "UPDATE members SET addresses = ?, rows = ? WHERE shard = ?",
            (kept.addresses, kept.rows.tobytes(), shard),
        )
        self._database.run("UPDATE shards SET requests = ? WHERE shard = ?", (len(kept), shard))
        return kept

    def _delete_shard(self, shard: int) -> None:
        for table in ("members", "job_shards", "shards"):
            self._database.run(f"DELETE FROM {table} WHERE shard = ?", (shard,))

    def cancel_planned(self, shard: int) -> bool:
        """Give up a planned shard that no job wants: whoever asks for its requests may claim them; tell if it was one.

        It was never sent, and has no batch.
        """
        with self.transaction():
            if self.waiting_jobs(shard, WANTING_JOBS):
                return False
            members = self.members(shard)
            moved = self.move(shard, PLANNED, state="collected", canceled=len(members), cancel_wanted=1, reason=None)
            if moved:
                self.fail(self.shard(shard), members, dict.fromkeys(range(len(members)), "canceled"))
        return moved

    def fail(self, shard: Shard, members: Members, failed: Mapping[int, str]) -> None:
        """Mark claims as without an answer: position to `errored`, `canceled` or `expired`."""
        self._database.run_many(
            "UPDATE claims SET failed = ? WHERE account = ? AND address = ? AND shard = ?",
            [
                (FAILED[kind], shard.account, members.address(position), shard.shard)
                for position, kind in failed.items()
            ],
        )

    def split_off(
        self, shard: Shard, members: Members, positions: Sequence[int], *, attempt: int, missing_from: str | None = None
    ) -> int:
        """Move requests of a shard to a further one, which inherits its waiters; return its number."""
        moved = members.pick(positions)
        retry = self._insert_shard(shard, moved, attempt)
        self.move(retry, PLANNED, missing_from=missing_from or shard.missing_from)
        self._database.run_many(
            "UPDATE claims SET shard = ?, position = ? WHERE account = ? AND address = ?",
            [(retry, position, shard.account, address) for position, address in enumerate(moved.split())],
        )
        self._database.run(
            "INSERT INTO job_shards SELECT job_id, ? FROM job_shards WHERE shard = ?", (retry, shard.shard)
        )
        return retry

    def split(self, shard: Shard, *, at: int | None = None) -> int | None:
        """Cut a planned shard in two, in the middle if nothing else is said; both keep its waiters.

        Returns the number of the second one, or None if there are no two requests to part, or it has moved on.
        """
        with self.transaction():
            current = self._find(shard.shard)
            if current is None or current.state != "planned" or current.requests < 2:  # noqa: PLR2004  two halves
                return None
            members = self.members(shard.shard)
            middle = len(members) // 2 if at is None else at
            rest = self.split_off(shard, members, range(middle, len(members)), attempt=shard.attempt)
            kept = members.pick(range(middle))
            self._database.run(
                "UPDATE members SET addresses = ?, rows = ? WHERE shard = ?",
                (kept.addresses, kept.rows.tobytes(), shard.shard),
            )
            self.move(shard.shard, PLANNED, requests=middle, refusals=0)
        return rest

    def set_aside(self, shard: Shard, positions: Collection[int], *, owner: str, reason: str) -> None:
        """Give up requests of a shard that cannot be sent, and plan the rest of it again."""
        with self.transaction():
            if not self.move(shard.shard, UPLOADING, owned_by=owner, state="planned", owner=None):
                return
            aside, members = shard.shard, self.members(shard.shard)
            if rest := sorted(set(range(len(members))) - set(positions)):
                aside = self.split_off(shard, members, sorted(positions), attempt=shard.attempt)
                self._shrink(shard.account, shard.shard, members.pick(rest))
            given_up = self.members(aside)
            self.fail(self.shard(aside), given_up, dict.fromkeys(range(len(given_up)), "errored"))
            self.move(aside, PLANNED, state="collected", errored=len(given_up), reason=reason)

    # Leases

    def lease_job(self, job_id: str, *, owner: str) -> bool:
        """Take the planning of a job, unless another live owner has it."""
        with self.transaction():
            job = self.job(job_id)
            if job is None or job.state != "planning":
                return False
            if job.owner != owner and self._is_held(job.owner, job.lease_until):
                return False
            return self.move_job(job_id, PLANNING, owner=owner, lease_until=self.now() + LEASE_SECONDS)

    def renew_job(self, job_id: str, *, owner: str) -> bool:
        """Hold a job that is being planned for another minute; tell whether it is still this owner's."""
        return self.move_job(job_id, PLANNING, owned_by=owner, lease_until=self.now() + LEASE_SECONDS)

    def lease_announcement(self, job: JobRecord, *, owner: str) -> bool:
        """Take the telling of a job at rest, unless it was told, moved on, or another live owner tells it."""
        with self.transaction():
            current = self.job(job.job_id)
            if current is None or current.state != job.state or current.announced_at is not None:
                return False
            if self._is_held(current.owner, current.lease_until):
                return False
            return self.move_job(job.job_id, AT_REST, owner=owner, lease_until=self.now() + LEASE_SECONDS)

    def renew_announcement(self, job_id: str, *, owner: str) -> bool:
        """Hold a job that is being told of for another minute."""
        return self.move_job(job_id, AT_REST, owned_by=owner, lease_until=self.now() + LEASE_SECONDS)

    def end_announcement(self, job: JobRecord, *, owner: str, done: bool) -> None:
        """Let go of a job, and note that it was told unless it is not done, or has moved on."""
        with self.transaction():
            if done:
                self.move_job(job.job_id, (job.state,), owned_by=owner, announced_at=self.now())
            self.move_job(job.job_id, (*AT_REST, *CANCELING), owned_by=owner, owner=None)

    def lease(self, shard: Shard, *, owner: str, to: ShardState) -> bool:
        """Take a shard for an upload or a collection, unless a live owner has it or it moved on."""
        with self.transaction():
            current = self._find(shard.shard)
            if current is None or not _is_as_seen(shard, current) or not self.is_abandoned(current):
                return False
            until = self.now() + LEASE_SECONDS
            return self.move(shard.shard, (shard.state,), state=to, owner=owner, lease_until=until)

    def take_back(self, shard: Shard) -> bool:
        """Plan a shard again whose owner is gone before its last chunk left, unless another one has it by now."""
        with self.transaction():
            current = self._find(shard.shard)
            if current is None or not self.is_abandoned(current):
                return False
            return self.move(shard.shard, UPLOADING, state="planned", owner=None)

    def move_doubtful(self, shard: Shard, **changes: object) -> bool:
        """Change a shard that is `submitting`, unless it was sent anew or its owner lives; tell whether it was."""
        with self.transaction():
            current = self._find(shard.shard)
            if current is None or current.submitting_at != shard.submitting_at or not self.is_abandoned(current):
                return False
            return self.move(shard.shard, SUBMITTING, owned_by=None, **changes)

    def renew(self, shard: int, *, owner: str) -> bool:
        """Hold a leased shard for another minute."""
        states: tuple[ShardState, ...] = ("uploading", "submitting", "ended", "streaming")
        return self.move(shard, states, owned_by=owner, lease_until=self.now() + LEASE_SECONDS)

    def is_abandoned(self, work: Shard | JobRecord) -> bool:
        """Tell whether nobody alive works on a shard, or plans a job."""
        return not self._is_held(work.owner, work.lease_until)

    def _is_held(self, owner: str | None, lease_until: float | None) -> bool:
        return owner is not None and (lease_until or 0) > self.now() and not is_dead(owner)


def _is_as_seen(seen: Shard, current: Shard) -> bool:
    """Tell whether a shard was neither moved, refused nor halved since it was looked at."""
    looked_at = (seen.state, seen.refusals, seen.requests)
    return looked_at == (current.state, current.refusals, current.requests)


def _ascending(addresses: npt.NDArray[np.bytes_]) -> Iterator[Numbers]:
    """Yield where addresses lie, in their order, many at a time: so each page of the claims is walked over once."""
    order = np.argsort(addresses)
    for first in range(0, len(order), CLAIMS_A_STATEMENT):
        yield order[first : first + CLAIMS_A_STATEMENT]


def _digits(numbers: Numbers) -> bytes:
    """Write numbers as ten digits each, which is how many of them become one parameter."""
    digits = np.empty((len(numbers), DIGITS), dtype=np.uint8)
    for place in range(DIGITS):
        digits[:, place] = numbers // 10 ** (DIGITS - 1 - place) % 10 + ord("0")
    return digits.tobytes()
