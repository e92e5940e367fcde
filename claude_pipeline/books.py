"""What was spent, what may be spent, and what need not be kept any longer."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from claude_pipeline.records import JobRecord, ModelUsage, Shard
from claude_pipeline.states import JOB_COLUMNS, SHARD_COLUMNS, States

Per = Literal["month"]

_USAGE = ", ".join(f"shard_models.{name}" for name in ModelUsage._fields)

# A job that nobody has asked for since, and whose input no shard needs that is still to be sent.
_OLD = """jobs.state = 'ended' AND jobs.pruned_at IS NULL AND jobs.ended_at < ? AND jobs.submitted_at < ?
AND NOT EXISTS (SELECT 1 FROM shards AS own WHERE own.job_id = jobs.job_id AND own.state <> 'collected')"""

_NEEDED = f"""SELECT 1 FROM jobs
WHERE (jobs.job_id = shards.job_id OR jobs.job_id IN (SELECT job_id FROM job_shards WHERE shard = shards.shard))
AND jobs.pruned_at IS NULL AND NOT ({_OLD})"""

_NOBODYS = f"shards.state = 'collected' AND shards.pruned_at IS NULL AND NOT EXISTS ({_NEEDED})"

_NEVER = 0.0  # nothing is older


class Spent(NamedTuple):
    """What one model has answered in a shard: for whom, and when that came into the store."""

    account: str
    job_id: str
    name: str | None
    collected_at: float
    usage: ModelUsage


class Books(States):
    """What a store has cost and may cost, and what of it is old."""

    # Costs

    def record_usage(self, shard: int, usages: Iterable[ModelUsage]) -> None:
        """Keep what the models have answered in a shard, unless that is known."""
        values = [(shard, *usage) for usage in usages]
        self._database.run_many(
            "INSERT INTO shard_models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values
        )

    def spent(self, since: float, until: float) -> list[Spent]:
        """List what was answered from one moment to before another."""
        sql = (
            f"SELECT accounts.name, jobs.job_id, jobs.name, shards.collected_at, {_USAGE} FROM shards"
            " JOIN shard_models USING (shard) JOIN jobs USING (job_id)"
            " JOIN accounts ON accounts.account = shards.account"
            " WHERE shards.collected_at >= ? AND shards.collected_at < ? ORDER BY shards.shard"
        )
        return [Spent._make([*row[:4], ModelUsage._make(row[4:])]) for row in self._database.rows(sql, (since, until))]

    def unknown_usage(self) -> list[Shard]:
        """List the collected shards of which it is not recorded what models have answered."""
        sql = (
            f"SELECT {SHARD_COLUMNS} FROM shards WHERE state = 'collected' AND input_tokens + output_tokens > 0"
            " AND NOT EXISTS (SELECT 1 FROM shard_models WHERE shard_models.shard = shards.shard)"
        )
        return [Shard(*row) for row in self._database.rows(sql)]

    # Budgets

    def max_cost_usd(self, per: Per | None = None) -> float | None:
        """Return what the store may cost each account in dollars, ever or in a month, if that is limited."""
        rows = self._database.rows("SELECT value FROM meta WHERE key = ?", (_limit_key(per),))
        return float(rows[0][0]) if rows else None

    def limit_cost(self, max_cost_usd: float | None, per: Per | None = None) -> None:
        """Limit what the store may cost each account, ever or in a month, or no longer."""
        with self.transaction():
            self._database.run("DELETE FROM meta WHERE key = ?", (_limit_key(per),))
            if max_cost_usd is not None:
                self._database.run("INSERT INTO meta VALUES (?, ?)", (_limit_key(per), repr(max_cost_usd)))

    # Retention

    def old_jobs(self, before: float) -> list[JobRecord]:
        """List the jobs that ended and were last submitted before a moment, and may be pruned."""
        rows = self._database.rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE {_OLD} ORDER BY ended_at", (before, before))
        return [JobRecord(*row) for row in rows]

    def unneeded_shards(self, before: float = _NEVER) -> list[Shard]:
        """List the shards whose answers no job needs that stays when those from before a moment are pruned."""
        sql = f"SELECT {SHARD_COLUMNS} FROM shards WHERE {_NOBODYS} ORDER BY shard"
        return [Shard(*row) for row in self._database.rows(sql, (before, before))]

    def prune_jobs(self, before: float) -> int:
        """Note of jobs from before a moment that their input and answers are kept no more; return how many."""
        return self._database.run(f"UPDATE jobs SET pruned_at = ? WHERE {_OLD}", (self.now(), before, before))

    def prune_shard(self, shard: Shard) -> bool:
        """Give up the claims of a shard, so that whoever asks for its requests pays anew; tell if no job needed it."""
        with self.transaction():
            sql = f"UPDATE shards SET pruned_at = ? WHERE shard = ? AND {_NOBODYS}"
            if not self._database.run(sql, (self.now(), shard.shard, _NEVER, _NEVER)):
                return False
            addresses = self.members(shard.shard).split()
            self._database.run_many(
                "DELETE FROM claims WHERE account = ? AND address = ? AND shard = ?",
                [(shard.account, address, shard.shard) for address in addresses],
            )
            self._database.run("DELETE FROM members WHERE shard = ?", (shard.shard,))
        return True

    def pruned_jobs(self) -> set[str]:
        """Name the jobs that are pruned."""
        return {job_id for (job_id,) in self._database.rows("SELECT job_id FROM jobs WHERE pruned_at IS NOT NULL")}

    def pruned_results(self) -> set[str]:
        """Name the batches and streams whose results are pruned."""
        sql = "SELECT COALESCE(batch_id, stream_id) FROM shards WHERE pruned_at IS NOT NULL"
        return {results_id for (results_id,) in self._database.rows(sql)}

    def hold_job(self, job_id: str) -> bool:
        """Let nobody else change a job before this transaction ends; tell whether it is pruned."""
        self._database.run("UPDATE jobs SET changes = changes WHERE job_id = ?", (job_id,))
        job = self.job(job_id)
        return job is not None and job.pruned_at is not None

    def deletable_batches(self, before: float) -> list[Shard]:
        """List the shards whose results came into the store before a moment, and whose batch the API may still have."""
        sql = (
            f"SELECT {SHARD_COLUMNS} FROM shards WHERE state = 'collected' AND batch_id IS NOT NULL"
            " AND reason IS NULL AND deleted_at IS NULL AND collected_at < ? ORDER BY shard"
        )
        return [Shard(*row) for row in self._database.rows(sql, (before,))]

    def note_deleted(self, shard: int) -> None:
        """Note that the API has the batch of a shard no more."""
        self._database.run("UPDATE shards SET deleted_at = ? WHERE shard = ?", (self.now(), shard))


def _limit_key(per: Per | None) -> str:
    return f"max_cost_usd_per_{per}" if per else "max_cost_usd"
