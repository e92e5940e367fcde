"""The durable record: jobs, the shards they wait for, and who claims which request.

Every change of state is a compare-and-set in one transaction, so that a sensor, a notebook, cron and a shell may
all work on one store at once, and any of them may die anywhere.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np

from claude_pipeline.database import Database, assignments, conditions, marks
from claude_pipeline.leases import LEASE_SECONDS, is_dead
from claude_pipeline.records import (
    FAILED,
    OPEN_JOBS,
    PLANNED,
    PLANNING,
    QUEUED,
    SUBMITTING,
    UPLOADING,
    WANTING_JOBS,
    Claim,
    JobRecord,
    Shard,
    ShardState,
)
from claude_pipeline.shards import Members
from claude_pipeline.status import JobState

_TALLIES = {number: tally for tally, number in FAILED.items()}
_LOOKUP = 10_000

_JOB = ", ".join(f"jobs.{field.name}" for field in fields(JobRecord))
_SHARD = ", ".join(f"shards.{field.name}" for field in fields(Shard))


class Ledger:
    """The record of one store."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self.now = self._database.now

    def transaction(self) -> AbstractContextManager[None]:
        """Run what the body does as one transaction."""
        return self._database.transaction()

    # Accounts and jobs

    def account(self, name: str) -> int:
        """Return an account's number, the same for ever."""
        with self.transaction():
            self._database.run("INSERT INTO accounts (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            ((account,),) = self._database.rows("SELECT account FROM accounts WHERE name = ?", (name,))
        return int(account)

    def account_name(self, account: int) -> str:
        """Return what an account was learned as."""
        ((name,),) = self._database.rows("SELECT name FROM accounts WHERE account = ?", (account,))
        return str(name)

    def begin_poll(self, account: int, *, unless_within: float) -> bool:
        """Note that an account's batches are looked at now, unless anybody has done so in the last so many seconds."""
        now = self.now()
        # A time to come is of a clock that was wrong, and says nothing.
        sql = "UPDATE accounts SET polled_at = ? WHERE account = ? AND NOT (polled_at > ? AND polled_at <= ?)"
        return self._database.run(sql, (now, account, now - unless_within, now)) == 1

    def add_job(self, job_id: str, *, account: int, name: str | None, settings: msgspec.Struct, rows: int) -> None:
        """Open a job that is still to be planned; one that exists takes the new settings and the time."""
        with self.transaction():
            now = self.now()
            self._database.run(
                "INSERT INTO jobs (job_id, account, name, state, settings, rows, created_at, submitted_at)"
                " VALUES (?, ?, ?, 'planning', ?, ?, ?, ?)"
                " ON CONFLICT (job_id) DO UPDATE"
                " SET settings = excluded.settings, submitted_at = excluded.submitted_at",
                (job_id, account, name, msgspec.json.encode(settings).decode(), rows, now, now),
            )

    def job(self, job_id: str) -> JobRecord | None:
        """Return a job, or None."""
        rows = self._database.rows(f"SELECT {_JOB} FROM jobs WHERE job_id = ?", (job_id,))
        return JobRecord(*rows[0]) if rows else None

    def jobs(self, states: Collection[JobState] | None = None, *, account: int | None = None) -> list[JobRecord]:
        """List jobs, the one submitted last at the end."""
        where, parameters = conditions(states, account)
        rows = self._database.rows(f"SELECT {_JOB} FROM jobs{where} ORDER BY submitted_at, job_id", parameters)
        return [JobRecord(*row) for row in rows]

    def move_job(
        self, job_id: str, states: Collection[JobState], *, owned_by: str | None = None, **changes: object
    ) -> bool:
        """Change a job in one of these states (and held by this owner, if one is given); tell whether it was."""
        held, owner = _held_by(owned_by)
        sql = f"UPDATE jobs SET {assignments(changes)} WHERE job_id = ? AND state IN ({marks(states)}){held}"
        with self.transaction():
            return self._database.run(sql, (*changes.values(), job_id, *states, *owner)) == 1

    def lease_job(self, job_id: str, *, owner: str) -> bool:
        """Take the planning of a job, unless a live owner has it."""
        with self.transaction():
            job = self.job(job_id)
            if job is None or job.state != "planning" or self._is_held(job.owner, job.lease_until):
                return False
            return self.move_job(job_id, PLANNING, owner=owner, lease_until=self.now() + LEASE_SECONDS)

    def renew_job(self, job_id: str, *, owner: str) -> bool:
        """Hold a job that is being planned for another minute; tell whether it is still this owner's."""
        return self.move_job(job_id, PLANNING, owned_by=owner, lease_until=self.now() + LEASE_SECONDS)

    # Claims

    def claims(self, account: int, addresses: Iterable[bytes]) -> dict[bytes, Claim]:
        """Look up who claims these requests, 10,000 at a time."""
        found: dict[bytes, Claim] = {}
        wanted = sorted(addresses)
        for start in range(0, len(wanted), _LOOKUP):
            some = wanted[start : start + _LOOKUP]
            sql = (
                f"SELECT address, shard, position, failed FROM claims WHERE account = ? AND address IN ({marks(some)})"
            )
            found.update((row[0], Claim(*row[1:])) for row in self._database.rows(sql, (account, *some)))
        return found

    def wait_for(self, job_id: str, shards: Iterable[int]) -> None:
        """Let a job wait for shards of others."""
        self._database.run_many(
            "INSERT INTO job_shards VALUES (?, ?) ON CONFLICT DO NOTHING", [(job_id, shard) for shard in shards]
        )

    def add_shard(self, job: JobRecord, members: Members, *, attempt: int = 1) -> Members:
        """Plan a shard, claim its requests and let its job wait for it; return the members that were won.

        A request that another shard claimed in the meantime is not among them.
        """
        with self.transaction():
            shard = self._insert_shard(job.job_id, job.account, members, attempt)
            self._retract_failures(job, members.split())
            won = self._database.claim(job.account, members.addresses, shard)
            if won < len(members):
                members = self._keep_won(job.account, shard, members)
            if members:
                self._database.run("INSERT INTO job_shards VALUES (?, ?)", (job.job_id, shard))
            else:
                self._delete_shard(shard)
        return members

    def _insert_shard(self, job_id: str, account: int, members: Members, attempt: int) -> int:
        ((shard,),) = self._database.rows(
            "INSERT INTO shards (account, job_id, state, attempt, requests, first_row, last_row)"
            " VALUES (?, ?, 'planned', ?, ?, ?, ?) RETURNING shard",
            (account, job_id, attempt, len(members), int(members.rows[0]), int(members.rows[-1])),
        )
        parameters = (shard, members.addresses, members.rows.tobytes())
        self._database.run("INSERT INTO members VALUES (?, ?, ?)", parameters)
        return int(shard)

    def _retract_failures(self, job: JobRecord, addresses: Sequence[bytes]) -> None:
        """Take requests that are asked again out of the tallies of this job's earlier shards."""
        failed = {s.shard for s in self.own_shards(job.job_id) if s.errored or s.canceled or s.expired}
        for claim in self.claims(job.account, addresses).values() if failed else ():
            if claim.failed and claim.shard in failed:
                tally = _TALLIES[claim.failed]
                self._database.run(f"UPDATE shards SET {tally} = {tally} - 1 WHERE shard = ?", (claim.shard,))

    def _keep_won(self, account: int, shard: int, members: Members) -> Members:
        claims = self.claims(account, members.split())
        won = [i for i, address in enumerate(members.split()) if claims[address].shard == shard]
        kept = members.pick(won)
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

    # Shards

    def shard(self, shard: int) -> Shard:
        """Return a shard."""
        if found := self._find(shard):
            return found
        raise LookupError(shard)

    def _find(self, shard: int) -> Shard | None:
        rows = self._database.rows(f"SELECT {_SHARD} FROM shards WHERE shard = ?", (shard,))
        return Shard(*rows[0]) if rows else None

    def members(self, shard: int) -> Members:
        """Return which requests a shard holds."""
        ((addresses, rows),) = self._database.rows("SELECT addresses, rows FROM members WHERE shard = ?", (shard,))
        return Members(addresses, np.frombuffer(rows, dtype=np.int64))

    def shards(self, account: int, states: Collection[ShardState], *, job_id: str | None = None) -> list[Shard]:
        """List an account's shards in these states; of those, only what a job waits for if one is given."""
        where, parameters = conditions(states, account)
        if job_id is not None:
            where += " AND shard IN (SELECT shard FROM job_shards WHERE job_id = ?)"
            parameters += (job_id,)
        rows = self._database.rows(f"SELECT {_SHARD} FROM shards{where} ORDER BY shard", parameters)
        return [Shard(*row) for row in rows]

    def own_shards(self, job_id: str) -> list[Shard]:
        """List the shards that a job planned."""
        rows = self._database.rows(f"SELECT {_SHARD} FROM shards WHERE job_id = ? ORDER BY shard", (job_id,))
        return [Shard(*row) for row in rows]

    def awaited_shards(self, job_id: str) -> list[Shard]:
        """List the shards that a job waits for, its own and others'."""
        sql = f"SELECT {_SHARD} FROM shards JOIN job_shards USING (shard) WHERE job_shards.job_id = ? ORDER BY shard"
        return [Shard(*row) for row in self._database.rows(sql, (job_id,))]

    def waiting_jobs(self, shard: int, states: Collection[JobState] = OPEN_JOBS) -> list[JobRecord]:
        """List the jobs in these states that wait for a shard."""
        sql = (
            f"SELECT {_JOB} FROM jobs JOIN job_shards USING (job_id)"
            f" WHERE job_shards.shard = ? AND jobs.state IN ({marks(states)}) ORDER BY jobs.created_at"
        )
        return [JobRecord(*row) for row in self._database.rows(sql, (shard, *states))]

    def batch_ids(self) -> set[str]:
        """Return every batch that the ledger knows."""
        return {batch for (batch,) in self._database.rows("SELECT batch_id FROM shards WHERE batch_id IS NOT NULL")}

    def move(
        self, shard: int, states: Collection[ShardState], *, owned_by: str | None = None, **changes: object
    ) -> bool:
        """Change a shard in one of these states (and held by this owner, if one is given); tell whether it was."""
        held, owner = _held_by(owned_by)
        sql = f"UPDATE shards SET {assignments(changes)} WHERE shard = ? AND state IN ({marks(states)}){held}"
        with self.transaction():
            moved = self._database.run(sql, (*changes.values(), shard, *states, *owner)) == 1
            if moved and "state" in changes:
                self._count_change(shard)
        return moved

    def move_doubtful(self, shard: Shard, **changes: object) -> bool:
        """Change a shard that is `submitting`, unless it was sent anew or its owner lives; tell whether it was."""
        with self.transaction():
            current = self._find(shard.shard)
            if current is None or current.submitting_at != shard.submitting_at or not self.is_abandoned(current):
                return False
            return self.move(shard.shard, SUBMITTING, owned_by=None, **changes)

    def _count_change(self, shard: int) -> None:
        self._database.run(
            "UPDATE jobs SET changes = changes + 1 WHERE job_id IN (SELECT job_id FROM job_shards WHERE shard = ?)",
            (shard,),
        )

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

    def renew(self, shard: int, *, owner: str) -> bool:
        """Hold a leased shard for another minute."""
        states: tuple[ShardState, ...] = ("uploading", "submitting", "ended")
        return self.move(shard, states, owned_by=owner, lease_until=self.now() + LEASE_SECONDS)

    def is_abandoned(self, shard: Shard) -> bool:
        """Tell whether nobody alive works on a shard."""
        return not self._is_held(shard.owner, shard.lease_until)

    def _is_held(self, owner: str | None, lease_until: float | None) -> bool:
        return owner is not None and (lease_until or 0) > self.now() and not is_dead(owner)

    def queued_requests(self, account: int) -> int:
        """Count the requests of an account that are sent or being sent, and have not ended."""
        return sum(shard.requests for shard in self.shards(account, QUEUED))

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
        retry = self._insert_shard(shard.job_id, shard.account, moved, attempt)
        self.move(retry, PLANNED, missing_from=missing_from or shard.missing_from)
        self._database.run_many(
            "UPDATE claims SET shard = ?, position = ? WHERE account = ? AND address = ?",
            [(retry, position, shard.account, address) for position, address in enumerate(moved.split())],
        )
        self._database.run(
            "INSERT INTO job_shards SELECT job_id, ? FROM job_shards WHERE shard = ?", (retry, shard.shard)
        )
        return retry

    def split(self, shard: Shard) -> None:
        """Halve a planned shard of two requests or more; both halves keep its waiters."""
        with self.transaction():
            current = self._find(shard.shard)
            if current is None or current.state != "planned" or current.requests < 2:  # noqa: PLR2004  two halves
                return
            members = self.members(shard.shard)
            middle = len(members) // 2
            self.split_off(shard, members, range(middle, len(members)), attempt=shard.attempt)
            kept = members.pick(range(middle))
            self._database.run(
                "UPDATE members SET addresses = ?, rows = ? WHERE shard = ?",
                (kept.addresses, kept.rows.tobytes(), shard.shard),
            )
            self.move(shard.shard, PLANNED, requests=middle, refusals=0)


def _is_as_seen(seen: Shard, current: Shard) -> bool:
    """Tell whether a shard was neither moved, refused nor halved since it was looked at."""
    looked_at = (seen.state, seen.refusals, seen.requests)
    return looked_at == (current.state, current.refusals, current.requests)


def _held_by(owner: str | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if owner is None else (" AND owner = ?", (owner,))
