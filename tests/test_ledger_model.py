"""The ledger beside a model of it: several processes, accounts and jobs, in any order of what they may do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from claude_pipeline.leases import new_owner
from claude_pipeline.records import FAILED, QUEUED, Shard, ShardState
from claude_pipeline.shards import Members
from claude_pipeline.store import Store

ROWS = st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True).map(sorted)
PROCESSES = st.sampled_from([0, 1, 2])
OUTCOMES = st.sampled_from(["succeeded", "again", *FAILED])
# Each change of state that the library makes, and whether only the owner of the lease may make it.
MOVES: list[tuple[ShardState, ShardState, bool]] = [
    ("uploading", "submitting", True),
    ("uploading", "planned", True),
    ("submitting", "in_progress", True),
    ("submitting", "planned", True),
    ("in_progress", "canceling", False),
    ("in_progress", "ended", False),
    ("canceling", "ended", False),
]


class NoSettings(msgspec.Struct):
    """A job of which only the record is looked at."""


def address(row: int) -> bytes:
    return blake2b(bytes([row]), digest_size=16).digest()


def members(rows: list[int]) -> Members:
    return Members(b"".join(map(address, rows)), np.array(rows, dtype=np.int64))


@dataclass(slots=True)
class ModelJob:
    account: int
    state: str = "planning"
    wants: set[int] = field(default_factory=set)


@dataclass(slots=True)
class ModelShard:
    account: int
    rows: list[int]
    state: str = "planned"
    owner: str | None = None
    holds: bool = False
    waiters: set[str] = field(default_factory=set)


class LedgerBesideItsModel(RuleBasedStateMachine):
    """Three processes on one ledger; each has a connection and an owner's name of its own."""

    new_ledger: Callable[[], str]

    jobs = Bundle("jobs")
    looks = Bundle("looks")

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        url = self.new_ledger()
        self.ledgers = [Store(Path(self._folder.name), url).ledger for _ in range(3)]
        self.owners = [new_owner() for _ in range(3)]
        self.model_jobs: dict[str, ModelJob] = {}
        self.model_shards: dict[int, ModelShard] = {}
        self.claims: dict[tuple[int, int], tuple[int, int]] = {}

    def teardown(self) -> None:
        self.ledgers.clear()
        self._folder.cleanup()

    def wanted(self, shard: int) -> bool:
        jobs = self.model_jobs
        return any(jobs[job].state in {"planning", "in_progress"} for job in self.model_shards[shard].waiters)

    # Jobs

    @rule(target=jobs, process=PROCESSES, account=st.sampled_from(["one", "two"]))
    def open_a_job(self, process: int, account: str) -> str:
        ledger, job_id = self.ledgers[process], f"job_{len(self.model_jobs)}"
        number = ledger.account(account)
        ledger.add_job(job_id, account=number, name=None, settings=NoSettings(), rows=9)
        self.model_jobs[job_id] = ModelJob(number)
        return job_id

    @rule(process=PROCESSES, job_id=jobs, rows=ROWS)
    def plan_a_shard(self, process: int, job_id: str, rows: list[int]) -> None:
        """Ask for rows as the planner does: what another shard has is waited for, in the same transaction."""
        ledger, job = self.ledgers[process], self.model_jobs[job_id]
        if job.state != "planning":
            return
        record = ledger.job(job_id)
        assert record is not None
        with ledger.transaction():
            won = [row for some in ledger.add_shards(record, [members(rows)]) for row in some.rows.tolist()]
            lost = [row for row in rows if row not in won]
            ledger.wait_for(job_id, {claim.shard for claim in ledger.claims(job.account, map(address, lost)).values()})
        free = [row for row in rows if self.claims.get((job.account, row), (0, 1))[1]]
        assert won == free
        self._note_claims(job_id, won, max((shard.shard for shard in ledger.own_shards(job_id)), default=0))
        for row in lost:
            self.model_shards[self.claims[job.account, row][0]].waiters.add(job_id)
        job.wants.update(rows)

    def _note_claims(self, job_id: str, won: list[int], shard: int) -> None:
        if won:
            account = self.model_jobs[job_id].account
            self.model_shards[shard] = ModelShard(account, won, waiters={job_id})
            for row in won:  # who had failed before waits for a new answer no more
                for job in self.model_jobs.values():
                    if job.account == account:
                        job.wants.discard(row)
                self.claims[account, row] = shard, 0

    @rule(process=PROCESSES, job_id=jobs, target_state=st.sampled_from(["in_progress", "canceling", "planning"]))
    def move_a_job(self, process: int, job_id: str, target_state: str) -> None:
        before = {"in_progress": "planning", "canceling": "in_progress", "planning": "canceling"}[target_state]
        job = self.model_jobs[job_id]
        moved = self.ledgers[process].move_job(job_id, (before,), state=target_state)  # type: ignore[arg-type]
        assert moved == (job.state == before)
        if moved:
            job.state = target_state
            job.wants = job.wants if target_state != "canceling" else set()

    # Shards

    @rule(target=looks, process=PROCESSES, data=st.data())
    def look_at_a_shard(self, process: int, data: st.DataObject) -> Shard | None:
        """Remember a shard as it is: what is done later by this look may come too late."""
        if not self.model_shards:
            return None
        number = data.draw(st.sampled_from(sorted(self.model_shards)))
        return self.ledgers[process].shard(number)

    @rule(process=PROCESSES, seen=looks)
    def lease_by_a_look(self, process: int, seen: Shard | None) -> None:
        if seen is None or seen.state not in {"planned", "ended"}:
            return
        now, to = self.model_shards[seen.shard], "uploading" if seen.state == "planned" else "ended"
        same = (now.state, len(now.rows)) == (seen.state, seen.requests)
        leased = self.ledgers[process].lease(seen, owner=self.owners[process], to=to)  # type: ignore[arg-type]
        assert leased == (same and not now.holds)
        if leased:
            now.state, now.owner, now.holds = to, self.owners[process], True

    @rule(process=PROCESSES, seen=looks, move=st.sampled_from(MOVES))
    def move_by_a_look(self, process: int, seen: Shard | None, move: tuple[ShardState, ShardState, bool]) -> None:
        if seen is None:
            return
        before, after, owned = move
        now, owner = self.model_shards[seen.shard], self.owners[process]
        changes: dict[str, object] = {"owner": None} if after in {"planned", "in_progress"} else {}
        moved = self.ledgers[process].move(
            seen.shard, (before,), owned_by=owner if owned else None, state=after, **changes
        )
        assert moved == (now.state == before and (not owned or now.owner == owner))
        if moved:
            now.state = after
            if changes:
                now.owner, now.holds = None, False

    @rule(process=PROCESSES, seen=looks)
    def let_a_lease_run_out(self, process: int, seen: Shard | None) -> None:
        if seen is not None:
            ledger, now = self.ledgers[process], self.model_shards[seen.shard]
            ledger.move(seen.shard, (now.state,), lease_until=ledger.now() - 1)  # type: ignore[arg-type]
            now.holds = False

    @rule(process=PROCESSES, seen=looks)
    def renew_a_lease(self, process: int, seen: Shard | None) -> None:
        if seen is None:
            return
        now, owner = self.model_shards[seen.shard], self.owners[process]
        renewed = self.ledgers[process].renew(seen.shard, owner=owner)
        assert renewed == (now.owner == owner and now.state in {"uploading", "submitting", "ended"})
        now.holds = now.holds or renewed

    @rule(process=PROCESSES, seen=looks)
    def take_an_upload_back(self, process: int, seen: Shard | None) -> None:
        if seen is None:
            return
        now = self.model_shards[seen.shard]
        taken = self.ledgers[process].take_back(seen)
        assert taken == (now.state == "uploading" and not now.holds)
        if taken:
            now.state, now.owner = "planned", None

    @rule(process=PROCESSES, seen=consumes(looks))
    def halve(self, process: int, seen: Shard | None) -> None:
        if seen is None:
            return
        now, half = self.model_shards[seen.shard], len(self.model_shards[seen.shard].rows) // 2
        self.ledgers[process].split(seen)
        if now.state == "planned" and half:
            self._note_moved(seen.shard, now.rows[half:])
            now.rows = now.rows[:half]

    @rule(process=PROCESSES, seen=looks, outcomes=st.lists(OUTCOMES, min_size=6, max_size=6))
    def collect(self, process: int, seen: Shard | None, outcomes: list[str]) -> None:
        """Record what came, and move what is asked again, as one transaction of the lease's owner."""
        if seen is None:
            return
        ledger, owner, now = self.ledgers[process], self.owners[process], self.model_shards[seen.shard]
        came = dict(zip(now.rows, outcomes, strict=False))
        failed = {at: kind for at, kind in enumerate(came.values()) if kind in FAILED}
        again = [at for at, kind in enumerate(came.values()) if kind == "again"]
        with ledger.transaction():
            moved = ledger.move(seen.shard, ("ended",), owned_by=owner, state="collected", owner=None)
            if moved:
                ledger.fail(seen, ledger.members(seen.shard), failed)
            if moved and again:
                ledger.split_off(seen, ledger.members(seen.shard), again, attempt=2)
        assert moved == (now.state == "ended" and now.owner == owner)
        if moved:
            now.state, now.owner, now.holds = "collected", None, False
            for at, kind in failed.items():
                self.claims[now.account, now.rows[at]] = seen.shard, FAILED[kind]
            self._note_moved(seen.shard, [now.rows[at] for at in again])

    @rule(process=PROCESSES, seen=looks)
    def cancel_what_nobody_wants(self, process: int, seen: Shard | None) -> None:
        if seen is None:
            return
        now = self.model_shards[seen.shard]
        canceled = self.ledgers[process].cancel_planned(seen.shard)
        assert canceled == (now.state == "planned" and not self.wanted(seen.shard))
        if canceled:
            now.state = "collected"
            for row in now.rows:
                self.claims[now.account, row] = seen.shard, FAILED["canceled"]

    def _note_moved(self, source: int, rows: list[int]) -> None:
        if rows:
            old, ledger = self.model_shards[source], self.ledgers[0]
            (number,) = {shard.shard for shard in ledger.own_shards(ledger.shard(source).job_id)} - set(
                self.model_shards
            )
            self.model_shards[number] = ModelShard(old.account, rows, waiters=set(old.waiters))
            for row in rows:
                self.claims[old.account, row] = number, 0

    # What always holds

    @invariant()
    def every_request_has_one_claim_at_its_place(self) -> None:
        ledger = self.ledgers[0]
        for account in {job.account for job in self.model_jobs.values()}:
            found = ledger.claims(account, [address(row) for row in range(12)])
            model = {address(row): claim for (owner, row), claim in self.claims.items() if owner == account}
            assert {key: (claim.shard, claim.failed) for key, claim in found.items()} == model
            for key, claim in found.items():
                assert ledger.members(claim.shard).address(claim.position) == key

    @invariant()
    def every_shard_is_as_the_model_says(self) -> None:
        ledger = self.ledgers[1]
        for number, model in self.model_shards.items():
            shard = ledger.shard(number)
            assert (shard.state, shard.account, shard.requests) == (model.state, model.account, len(model.rows))
            assert ledger.members(number).rows.tolist() == model.rows
            if model.state != "collected":
                assert all(self.claims[model.account, row] == (number, 0) for row in model.rows)
        for account in {job.account for job in self.model_jobs.values()}:
            queued = [s for s in self.model_shards.values() if s.account == account and s.state in QUEUED]
            assert ledger.queued_requests(account) == sum(len(shard.rows) for shard in queued)

    @invariant()
    def no_job_loses_what_it_waits_for(self) -> None:
        ledger = self.ledgers[2]
        for job_id, job in self.model_jobs.items():
            awaited = {shard.shard for shard in ledger.awaited_shards(job_id)}
            assert awaited == {number for number, shard in self.model_shards.items() if job_id in shard.waiters}
            assert {self.claims[job.account, row][0] for row in job.wants} <= awaited


def run_beside_its_model(new_ledger: Callable[[], str], *, examples: int) -> None:
    machine = type("Machine", (LedgerBesideItsModel,), {"new_ledger": staticmethod(new_ledger)})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))


def test_the_ledger_in_a_file_beside_its_model():
    run_beside_its_model(lambda: "sqlite", examples=60)


def test_the_ledger_on_a_server_beside_its_model(postgres):
    run_beside_its_model(postgres.empty_database, examples=10)
