"""Every state of a shard meets every event: none is unhandled, and wherever it leads, the job still ends whole."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from anthropic import Anthropic
from meddler import Answer, Meddle, Meddler, Seen

import claude_pipeline as cp
from claude_pipeline import advancing, batches
from claude_pipeline.leases import new_owner
from claude_pipeline.store import Store

HOUR, MONTH = 3600.0, 30 * 24 * 3600.0

# What an advance asks the API for while a shard is in a state, by what the API says then.
CALLS = {
    "planned": {"create", "list"},
    "uploading": {"create", "list"},
    "doubtful": {"list"},
    "overdue": {"create", "list"},
    "lost": {"list", "retrieve", "results"},
    "in_progress": {"list", "retrieve", "results"},
    "canceling": {"list", "retrieve", "results"},
    "ended": {"retrieve", "results"},
    "collected": set(),
}

# event | states of the shard | what its shards, and its job, come to
TABLE = """
nothing             | planned uploading overdue         | in_progress in_progress
nothing             | doubtful lost                     | submitting in_progress
nothing             | in_progress                       | in_progress in_progress
nothing             | canceling ended collected         | collected ended

create 400          | planned uploading overdue         | planned blocked
create 401          | planned uploading overdue         | planned blocked
create 402          | planned uploading overdue         | planned blocked
create 403          | planned uploading overdue         | planned blocked
create 404          | planned uploading overdue         | planned blocked
create 409          | planned uploading overdue         | planned blocked
create spend cap    | planned uploading overdue         | planned blocked
create 413          | planned uploading overdue         | planned+planned in_progress
create 429          | planned uploading overdue         | planned in_progress
create 529          | planned uploading overdue         | submitting in_progress
create 408          | planned uploading overdue         | submitting in_progress
create 499          | planned uploading overdue         | submitting in_progress
create 500          | planned uploading overdue         | submitting in_progress
create 500 yet done | planned uploading overdue         | submitting in_progress
create unreadable   | planned uploading overdue         | submitting in_progress

list 401            | planned uploading                 | planned in_progress
list 401            | doubtful overdue lost             | submitting in_progress
list 401            | in_progress                       | in_progress in_progress
list 401            | canceling                         | canceling canceling
list 403            | planned uploading                 | planned in_progress
list 403            | doubtful overdue lost             | submitting in_progress
list 403            | in_progress                       | in_progress in_progress
list 403            | canceling                         | canceling canceling
list 500            | planned uploading                 | planned in_progress
list 500            | doubtful overdue lost             | submitting in_progress
list 500            | in_progress                       | in_progress in_progress
list 500            | canceling                         | canceling canceling
list unreadable     | planned uploading                 | planned in_progress
list unreadable     | doubtful overdue lost             | submitting in_progress
list unreadable     | in_progress                       | in_progress in_progress
list unreadable     | canceling                         | canceling canceling
list lacks it       | planned uploading overdue         | in_progress in_progress
list lacks it       | doubtful lost                     | submitting in_progress
list lacks it       | in_progress                       | in_progress in_progress
list lacks it       | canceling                         | collected ended

retrieve 403        | lost in_progress ended            | ended in_progress
retrieve 403        | canceling                         | ended canceling
retrieve 500        | lost in_progress ended            | ended in_progress
retrieve 500        | canceling                         | ended canceling
retrieve unreadable | lost in_progress ended            | ended in_progress
retrieve unreadable | canceling                         | ended canceling
retrieve 404, young | lost                              | submitting in_progress
retrieve 404, young | in_progress                       | in_progress in_progress
retrieve 404, young | canceling                         | canceling canceling
retrieve 404, young | ended                             | ended in_progress
retrieve 404, old   | lost                              | submitting in_progress
retrieve 404, old   | in_progress ended                 | collected blocked
retrieve 404, old   | canceling                         | collected ended
retrieve 404, listed| lost in_progress ended            | ended in_progress
retrieve 404, listed| canceling                         | ended canceling
retrieve archived   | lost in_progress ended            | collected blocked
retrieve archived   | canceling                         | collected ended

results 403         | lost                              | submitting in_progress
results 403         | in_progress ended                 | ended in_progress
results 403         | canceling                         | ended canceling
results 500         | lost                              | submitting in_progress
results 500         | in_progress ended                 | ended in_progress
results 500         | canceling                         | ended canceling
results 404, young  | lost                              | submitting in_progress
results 404, young  | in_progress ended                 | ended in_progress
results 404, young  | canceling                         | ended canceling
results 404, old    | lost                              | submitting in_progress
results 404, old    | in_progress ended                 | ended in_progress
results 404, old    | canceling                         | ended canceling
results garbled     | lost                              | submitting in_progress
results garbled     | in_progress ended                 | ended blocked
results garbled     | canceling                         | ended blocked
results doubled     | lost                              | submitting in_progress
results doubled     | in_progress ended                 | ended blocked
results doubled     | canceling                         | ended blocked
results empty, young| lost                              | submitting in_progress
results empty, young| in_progress ended                 | ended in_progress
results empty, young| canceling                         | ended canceling
results empty, old  | lost                              | submitting in_progress
results empty, old  | in_progress ended                 | ended blocked
results empty, old  | canceling                         | ended blocked
results short, young| lost                              | submitting in_progress
results short, young| in_progress ended                 | ended in_progress
results short, young| canceling                         | ended canceling
results short, old  | lost in_progress ended            | collected+in_progress in_progress
results short, old  | canceling                         | collected ended

it has ended        | planned uploading overdue         | in_progress in_progress
it has ended        | doubtful                          | submitting in_progress
it has ended        | lost in_progress                  | collected ended
it has ended        | canceling ended collected         | collected ended
others cancel it    | planned uploading overdue         | in_progress in_progress
others cancel it    | doubtful                          | submitting in_progress
others cancel it    | lost in_progress                  | collected blocked
others cancel it    | canceling ended collected         | collected ended
it is archived      | planned uploading overdue         | in_progress in_progress
it is archived      | doubtful                          | submitting in_progress
it is archived      | lost                              | planned blocked
it is archived      | in_progress ended                 | collected blocked
it is archived      | canceling collected               | collected ended

cancel              | planned uploading overdue         | collected ended
cancel              | doubtful lost                     | submitting canceling
cancel              | in_progress                       | canceling canceling
cancel              | canceling ended collected         | collected ended
cancel 400          | planned uploading overdue         | collected ended
cancel 400          | doubtful lost                     | submitting canceling
cancel 400          | in_progress                       | in_progress canceling
cancel 400          | canceling ended collected         | collected ended
cancel 500          | planned uploading overdue         | collected ended
cancel 500          | doubtful lost                     | submitting canceling
cancel 500          | in_progress                       | in_progress canceling
cancel 500          | canceling ended collected         | collected ended
resume              | planned uploading overdue         | in_progress in_progress
resume              | doubtful lost                     | submitting in_progress
resume              | in_progress                       | in_progress in_progress
resume              | canceling                         | collected+in_progress in_progress
resume              | ended collected                   | collected ended
another holds it    | planned                           | planned in_progress
another holds it    | uploading                         | uploading in_progress
another holds it    | doubtful overdue lost             | submitting in_progress
another holds it    | in_progress                       | in_progress in_progress
another holds it    | canceling                         | ended canceling
another holds it    | ended                             | ended in_progress
another holds it    | collected                         | collected ended
"""
EXPECTED = {
    (state, event.strip()): after.strip()
    for event, states, after in (line.split("|") for line in TABLE.splitlines() if line)
    for state in states.split()
}


class Gate(Meddler):
    """A meddler that may also refuse a request before it is passed on."""

    refuse: Callable[[Seen], Answer | None]

    def answer(self, seen: Seen, body: bytes) -> Answer:
        if refused := self.refuse(seen):
            self.seen.append(seen)
            return refused
        return super().answer(seen, body)

    def heal(self) -> None:
        self.refuse = lambda _seen: None
        self.meddle = lambda _seen, _true: None


@dataclass(slots=True)
class World:
    """A job of two rows in one shard, between a client and a sandbox whose batches take an hour."""

    sandbox: cp.Sandbox
    gate: Gate
    folder: Path
    client: Anthropic
    job: cp.Job = field(init=False)

    def submit(self) -> None:
        asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 9, "store": self.folder}
        self.job = cp.submit(pa.table({"text": ["one", "two"]}), client=self.client, **asked)
        self.gate.heal()

    def change(self, **changes: Any) -> None:
        ledger = Store(self.folder).ledger
        for shard in ledger.own_shards(self.job.job_id):
            ledger.move(shard.shard, (shard.state,), **changes)

    def now(self) -> float:
        return Store(self.folder).ledger.now()

    def where(self) -> str:
        shards = Store(self.folder).ledger.own_shards(self.job.job_id)
        return f"{'+'.join(shard.state for shard in shards)} {self.job.status().state}"


def call_of(seen: Seen) -> str:
    path, _, query = seen.path.partition("?")
    if path.endswith("/batches"):
        return "list" if seen.method == "GET" else "create"
    last = path.rpartition("/")[2]
    return last if last in {"results", "cancel"} and not query else "retrieve"


# How a shard comes into each state


def planned(world: World) -> None:
    world.gate.refuse = refusing("create", 429)
    world.submit()
    world.change(not_before=0.0, reason=None, refusals=0)


def uploading(world: World) -> None:
    planned(world)
    host, pid, _, nonce = new_owner().split(" ")
    world.change(state="uploading", owner=f"{host} {pid} 1 {nonce}", lease_until=world.now() + 60)


def doubtful(world: World) -> None:
    planned(world)
    world.change(state="submitting", submitting_at=world.now())


def overdue(world: World) -> None:
    planned(world)
    world.change(state="submitting", submitting_at=world.now() - 61, lease_until=None)


def lost(world: World) -> None:
    world.gate.meddle = replacing("create", 500)
    world.submit()


def in_progress(world: World) -> None:
    world.submit()


def canceling(world: World) -> None:
    world.submit()
    world.job.cancel()


def ended(world: World) -> None:
    world.submit()
    world.sandbox.advance_clock(HOUR)
    cp.poll(store=world.folder, client=world.client)


def collected(world: World) -> None:
    world.submit()
    world.sandbox.advance_clock(HOUR)
    assert world.job.advance().state == "ended"


STATES = {
    f.__name__: f for f in (planned, uploading, doubtful, overdue, lost, in_progress, canceling, ended, collected)
}


# What may happen to it


def error_body(**error: Any) -> bytes:
    return json.dumps({"type": "error", "error": {"type": "some_error", "message": "No.", **error}}).encode()


def refusing(call: str, status: int, **error: Any) -> Callable[[Seen], Answer | None]:
    return lambda seen: Answer(status, error_body(**error)) if call_of(seen) == call else None


def replacing(call: str, status: int, body: bytes = b"{}") -> Meddle:
    return lambda seen, _true: Answer(status, body) if call_of(seen) == call else None


def spoiling(spoil: Callable[[list[bytes]], list[bytes]]) -> Meddle:
    def meddle(seen: Seen, true: Answer) -> Answer | None:
        if call_of(seen) != "results":
            return None
        return Answer(true.status, b"".join(spoil(true.body.splitlines(keepends=True))), true.headers)

    return meddle


def refused(call: str, status: int, **error: Any) -> Callable[[World], None]:
    def happen(world: World) -> None:
        world.gate.refuse = refusing(call, status, **error)

    return happen


def meddled(meddle: Meddle) -> Callable[[World], None]:
    def happen(world: World) -> None:
        world.gate.meddle = meddle

    return happen


def unlisted(world: World) -> None:
    world.gate.meddle = replacing("list", 200, json.dumps({"data": [], "has_more": False}).encode())


def unknown(world: World) -> None:
    unlisted(world)
    world.gate.refuse = refusing("retrieve", 404)


def archive(world: World) -> None:
    def meddle(seen: Seen, true: Answer) -> Answer | None:
        if call_of(seen) != "retrieve":
            return None
        return Answer(200, json.dumps(json.loads(true.body) | {"archived_at": "2026-01-01T00:00:00Z"}).encode())

    world.gate.meddle = meddle


def canceled_by_others(world: World) -> None:
    for batch_id in {request.batch_id for request in world.sandbox.requests()}:
        world.job._start_session().api.cancel(batch_id)


def held_by_another(world: World) -> None:
    world.change(owner=" ".join(["another-host", *new_owner().split(" ")[1:]]), lease_until=world.now() + 60)


def nothing(_world: World) -> None:
    return


EVENTS: dict[str, Callable[[World], None]] = {
    **{f"create {status}": refused("create", status) for status in (400, 401, 402, 403, 404, 408, 409, 413, 429)},
    **{f"create {status}": refused("create", status) for status in (499, 500, 529)},
    "create spend cap": refused("create", 429, details={"error_code": "enforced_spend_limit_reached"}),
    "create 500 yet done": meddled(replacing("create", 500)),
    "create unreadable": meddled(replacing("create", 200, b"<html>")),
    **{f"list {status}": refused("list", status) for status in (401, 403, 500)},
    "list unreadable": meddled(replacing("list", 200, b"<html>")),
    "list lacks it": unlisted,
    **{f"retrieve {status}": refused("retrieve", status) for status in (403, 500)},
    "retrieve 404, young": unknown,
    "retrieve 404, old": unknown,
    "retrieve 404, listed": refused("retrieve", 404),
    "retrieve unreadable": meddled(replacing("retrieve", 200, b"<html>")),
    "retrieve archived": archive,
    **{f"results {status}": refused("results", status) for status in (403, 500)},
    "results 404, young": refused("results", 404),
    "results 404, old": refused("results", 404),
    "results garbled": meddled(spoiling(lambda lines: [b"<html>\n", *lines[1:]])),
    "results doubled": meddled(spoiling(lambda lines: [*lines, lines[0]])),
    "results empty, young": meddled(spoiling(lambda _lines: [])),
    "results empty, old": meddled(spoiling(lambda _lines: [])),
    "results short, young": meddled(spoiling(lambda lines: lines[1:])),
    "results short, old": meddled(spoiling(lambda lines: lines[1:])),
    "nothing": nothing,
    "it has ended": lambda world: world.sandbox.advance_clock(HOUR),
    "others cancel it": canceled_by_others,
    "it is archived": lambda world: world.sandbox.advance_clock(MONTH),
    "cancel": nothing,
    "cancel 400": refused("cancel", 400),
    "cancel 500": refused("cancel", 500),
    "resume": nothing,
    "another holds it": held_by_another,
}
PAID_AGAIN = {"retrieve 404, old", "results short, old", "retrieve archived", "it is archived"}


def can_meet(state: str, event: str) -> bool:
    call = event.split(" ", maxsplit=1)[0]
    return call not in {"create", "list", "retrieve", "results"} or call in CALLS[state]


PAIRS = [pair for pair in product(STATES, EVENTS) if can_meet(*pair)]


@pytest.fixture(scope="module")
def client() -> Iterator[Anthropic]:
    with Anthropic(base_url="http://127.0.0.1", api_key="any") as client:
        yield client


@pytest.fixture
def world(tmp_path: Path, client: Anthropic) -> Iterator[World]:
    echo = {"answer": lambda params: params["messages"][0]["content"]}
    with cp.Sandbox(batch_seconds=HOUR, **echo) as sandbox, Gate(sandbox.url) as gate:
        gate.heal()
        yield World(sandbox, gate, tmp_path / "store", client.with_options(base_url=gate.url))


def take_a_step(world: World, event: str) -> None:
    """Do what the user does, or advance; an error that is no passing one is told, and that is all."""
    verb = event.split(" ", maxsplit=1)[0]
    with suppress(cp.ApiError):
        getattr(world.job, verb if verb in {"cancel", "resume"} else "advance")()


def finish(world: World) -> None:
    """Heal everything, and do what the job's words ask of the user."""
    world.gate.heal()
    for _ in range(9):
        world.sandbox.advance_clock(HOUR)
        world.change(owner=None, lease_until=None, not_before=0.0)
        if world.where().startswith("submitting"):
            world.change(submitting_at=world.now() - 61)
        status = world.job.advance()
        if status.state == "ended" and not status.unanswered:
            return
        if status.state in {"blocked", "ended"}:
            world.job.resume()
    pytest.fail(f"It does not end: {world.where()}, {world.job.status().reason}")


def test_the_table_has_every_pair_that_can_meet_and_no_other():
    assert set(EXPECTED) == set(PAIRS)


@pytest.mark.parametrize("state", STATES)
def test_in_a_state_the_api_is_asked_for_no_more_than_the_table_says(world, state):
    STATES[state](world)
    world.gate.seen.clear()
    if "results" in CALLS[state]:
        world.sandbox.advance_clock(HOUR)
    world.job.advance()
    assert {call_of(seen) for seen in world.gate.seen} <= CALLS[state]


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_a_state_meets_an_event(world, state, event, monkeypatch):
    STATES[state](world)
    if event.startswith(("retrieve", "results")):
        world.sandbox.advance_clock(HOUR)
    with monkeypatch.context() as patch:
        if event.endswith((", young", ", old")):
            youth = 10 * MONTH if event.endswith("young") else -10 * MONTH
            patch.setattr(advancing, "_PASSING_404_SECONDS", youth)
            patch.setattr(batches, "RESULTS_SETTLE_SECONDS", youth)
        EVENTS[event](world)
        take_a_step(world, event)
    assert world.where() == EXPECTED[state, event]
    finish(world)
    table = world.job.to_arrow()
    assert table["response"].to_pylist() == table["text"].to_pylist()
    assert world.sandbox.usage()["answers_billed_twice"] == 0 or event in PAID_AGAIN
