"""Accounts, jobs and shards as they stand, and every change of their state: a compare-and-set in one transaction."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields

import msgspec
import numpy as np

from claude_pipeline import logs
from claude_pipeline.database import Database, assignments, conditions, marks
from claude_pipeline.errors import StoreError
from claude_pipeline.records import AT_REST, OPEN_JOBS, QUEUED, JobRecord, Shard, ShardState
from claude_pipeline.shards import Members
from claude_pipeline.status import JobState

JOB_COLUMNS = ", ".join(f"jobs.{field.name}" for field in fields(JobRecord))
SHARD_COLUMNS = ", ".join(f"shards.{field.name}" for field in fields(Shard))


class States:
    """What is recorded of the jobs and shards of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.now = self._database.now

    @property
    def url(self) -> str:
        """What names the ledger to whoever opens it as well; it may hold a password."""
        return self._database.url

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run what the body does as one transaction, and log what happens in it once it is committed."""
        with logs.held(), self._database.transaction():
            yield

    # Accounts and jobs

    def account(self, name: str) -> int:
        """Return an account's number, the same for ever."""
        with self.transaction():
            self._database.run("INSERT INTO accounts (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            ((account,),) = self._database.rows("SELECT account FROM accounts WHERE name = ?", (name,))
        return int(account)

    def accounts(self) -> dict[int, str]:
        """Return what each account was learned as."""
        return dict(self._database.rows("SELECT account, name FROM accounts ORDER BY account"))

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

    def is_polled(self, account: int, *, within: float) -> bool:
        """Tell whether anybody has looked at an account's batches in the last so many seconds."""
        ((polled_at,),) = self._database.rows("SELECT polled_at FROM accounts WHERE account = ?", (account,))
        return 0 <= self.now() - float(polled_at) < within

    def forget_poll(self, account: int) -> None:
        """Note that a look at an account's batches came to nothing."""
        self._database.run("UPDATE accounts SET polled_at = 0 WHERE account = ?", (account,))

    def add_job(
        self,
        job_id: str,
        *,
        account: int,
        name: str | None,
        settings: msgspec.Struct,
        rows: int,
        submitted: Mapping[str, str | None] | None = None,
    ) -> None:
        """Open a job that is still to be planned; one that exists takes the new settings, the time and `submitted`.

        These are the columns that say who submits: `submitted_by`, `submitted_from` and `traceparent`. One that is
        pruned has nothing left, and begins anew.
        """
        with self.transaction():
            now, text = self.now(), msgspec.json.encode(settings).decode()
            self._revive(job_id, now)
            self._database.run(
                "INSERT INTO jobs (job_id, account, name, state, settings, rows, created_at, submitted_at)"
                " VALUES (?, ?, ?, 'planning', ?, ?, ?, ?)"
                " ON CONFLICT (job_id) DO UPDATE"
                " SET settings = excluded.settings, submitted_at = excluded.submitted_at",
                (job_id, account, name, text, rows, now, now),
            )
            if submitted:
                sql = f"UPDATE jobs SET {assignments(submitted)} WHERE job_id = ?"
                self._database.run(sql, (*submitted.values(), job_id))

    def _revive(self, job_id: str, now: float) -> None:
        anew = "state = 'planning', asking = 0, reason = NULL, unanswered = NULL, owner = NULL, ended_at = NULL"
        anew += ", announced_at = NULL, pruned_at = NULL, created_at = ?"
        sql = f"UPDATE jobs SET {anew} WHERE job_id = ? AND pruned_at IS NOT NULL"
        if self._database.run(sql, (now, job_id)):
            pruned = "SELECT shard FROM shards WHERE pruned_at IS NOT NULL"
            self._database.run(f"DELETE FROM job_shards WHERE job_id = ? AND shard IN ({pruned})", (job_id,))

    def job(self, job_id: str) -> JobRecord | None:
        """Return a job, or None."""
        rows = self._database.rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = ?", (job_id,))
        return JobRecord(*rows[0]) if rows else None

    def jobs(self, states: Collection[JobState] | None = None, *, account: int | None = None) -> list[JobRecord]:
        """List jobs, the one submitted last at the end."""
        where, parameters = conditions(states, account)
        rows = self._database.rows(f"SELECT {JOB_COLUMNS} FROM jobs{where} ORDER BY submitted_at, job_id", parameters)
        return [JobRecord(*row) for row in rows]

    def move_job(
        self, job_id: str, states: Collection[JobState], *, owned_by: str | None = None, **changes: object
    ) -> bool:
        """Change a job in one of these states (and held by this owner, if one is given); tell whether it was.

        Nobody has been told of a new state yet.
        """
        if "state" in changes:
            changes["announced_at"] = None
        held, owner = _held_by(owned_by)
        sql = f"UPDATE jobs SET {assignments(changes)} WHERE job_id = ? AND state IN ({marks(states)}){held}"
        with self.transaction():
            return self._database.run(sql, (*changes.values(), job_id, *states, *owner)) == 1

    def begin_announcing(self, *, but: str | None) -> None:
        """Note that somebody wants to be told of jobs at rest; the first time all that are count as told but one."""
        with self.transaction():
            if self._database.rows("SELECT 1 FROM meta WHERE key = 'announced_since'"):
                return
            now = self.now()
            self._database.run("INSERT INTO meta VALUES ('announced_since', ?)", (repr(now),))
            sql = f"UPDATE jobs SET announced_at = ? WHERE state IN ({marks(AT_REST)}) AND job_id <> ?"
            self._database.run(sql, (now, *AT_REST, but or ""))

    def unannounced(self) -> list[JobRecord]:
        """List the jobs at rest that nobody has been told of."""
        return [job for job in self.jobs(AT_REST) if job.announced_at is None]

    # Shards

    def planner_of(self, shard: Shard) -> JobRecord:
        """Return the job that planned a shard."""
        rows = self._database.rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = ?", (shard.job_id,))
        return JobRecord(*rows[0])

    def shard(self, shard: int) -> Shard:
        """Return a shard."""
        if found := self._find(shard):
            return found
        raise LookupError(shard)

    def _find(self, shard: int) -> Shard | None:
        rows = self._database.rows(f"SELECT {SHARD_COLUMNS} FROM shards WHERE shard = ?", (shard,))
        return Shard(*rows[0]) if rows else None

    def members(self, shard: int) -> Members:
        """Return which requests a shard holds.

        Raises:
            StoreError: It was pruned.
        """
        found = self._database.rows("SELECT addresses, rows FROM members WHERE shard = ?", (shard,))
        if not found:
            raise StoreError(
                "These answers were pruned while they were read. Submit the same table again to have it answered anew, "
                "and paid for again."
            )
        ((addresses, rows),) = found
        return Members(addresses, np.frombuffer(rows, dtype=np.int64))

    def shards(
        self, account: int, states: Collection[ShardState] | None = None, *, job_id: str | None = None
    ) -> list[Shard]:
        """List an account's shards, of all states or of these; of those, only what a job waits for if one is given."""
        where, parameters = conditions(states, account)
        if job_id is not None:
            where += " AND shard IN (SELECT shard FROM job_shards WHERE job_id = ?)"
            parameters += (job_id,)
        rows = self._database.rows(f"SELECT {SHARD_COLUMNS} FROM shards{where} ORDER BY shard", parameters)
        return [Shard(*row) for row in rows]

    def own_shards(self, job_id: str) -> list[Shard]:
        """List the shards that a job planned; of one that has begun anew, those that are left and the new ones."""
        sql = (
            f"SELECT {SHARD_COLUMNS} FROM shards JOIN jobs USING (job_id) WHERE shards.job_id = ?"
            " AND (shards.pruned_at IS NULL OR jobs.pruned_at IS NOT NULL) ORDER BY shard"
        )
        rows = self._database.rows(sql, (job_id,))
        return [Shard(*row) for row in rows]

    def awaited_shards(self, job_id: str) -> list[Shard]:
        """List the shards that a job waits for, its own and others'."""
        sql = (
            f"SELECT {SHARD_COLUMNS} FROM shards JOIN job_shards USING (shard)"
            " WHERE job_shards.job_id = ? ORDER BY shard"
        )
        return [Shard(*row) for row in self._database.rows(sql, (job_id,))]

    def waiting_jobs(self, shard: int, states: Collection[JobState] = OPEN_JOBS) -> list[JobRecord]:
        """List the jobs in these states that wait for a shard."""
        sql = (
            f"SELECT {JOB_COLUMNS} FROM jobs JOIN job_shards USING (job_id)"
            f" WHERE job_shards.shard = ? AND jobs.state IN ({marks(states)}) ORDER BY jobs.created_at"
        )
        return [JobRecord(*row) for row in self._database.rows(sql, (shard, *states))]

    def batch_ids(self) -> set[str]:
        """Return every batch that the ledger knows."""
        return {batch for (batch,) in self._database.rows("SELECT batch_id FROM shards WHERE batch_id IS NOT NULL")}

    def queued_requests(self, account: int) -> int:
        """Count the requests of an account that are sent or being sent, and have not ended."""
        return sum(shard.requests for shard in self.shards(account, QUEUED))

    def move(
        self, shard: int, states: Collection[ShardState], *, owned_by: str | None = None, **changes: object
    ) -> bool:
        """Change a shard in one of these states (and held by this owner, if one is given); tell whether it was."""
        if changes.get("state") == "collected":
            changes["collected_at"] = self.now()
        held, owner = _held_by(owned_by)
        sql = f"UPDATE shards SET {assignments(changes)} WHERE shard = ? AND state IN ({marks(states)}){held}"
        with self.transaction():
            moved = self._database.run(sql, (*changes.values(), shard, *states, *owner)) == 1
            if moved and "state" in changes:
                self._count_change(shard)
        return moved

    def _count_change(self, shard: int) -> None:
        self._database.run(
            "UPDATE jobs SET changes = changes + 1 WHERE job_id IN (SELECT job_id FROM job_shards WHERE shard = ?)",
            (shard,),
        )


def _held_by(owner: str | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if owner is None else (" AND owner = ?", (owner,))
