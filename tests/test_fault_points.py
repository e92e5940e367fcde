"""Struck at any commit, rename, sending or answer, a run is finished by the same command, and nothing is paid twice."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from forking import Workers
from turns import is_free, shard_states

import claude_pipeline as cp

AT_ONCE = 4
LEASE = 0.5


@dataclass(frozen=True)
class Task:
    """A table to be answered, and what that takes: distinct requests, of which some are sent twice, and batches."""

    prompts: list[str | None]
    distinct: int
    retries: int
    batches: int
    options: dict[str, Any] = field(default_factory=dict)


PLAIN = Task(["Prompt 0", "Fails once", "Prompt 1", "Prompt 0", None], distinct=3, retries=1, batches=3)
LONG, LONGER = "long " * 20, "longer " * 30  # 25 and 52 tokens, where 16 are allowed
BOTH = {"output_schema": "a: int", "on_invalid": "retry", "on_truncated": "retry"}
# Asked three times each, but for the last, which is right at once.
AGAIN = Task(["Never fits", LONG, LONGER, LONG, '{"a": 1}'], distinct=10, retries=0, batches=6, options=BOTH)


def echo(params):
    return params["messages"][-1]["content"]


def fail_once(_custom_id, params, attempt):
    return "api_error" if echo(params) == "Fails once" and attempt == 1 else None


class Place:
    """A sandbox, a store and an input of their own, and the command that is run there again and again."""

    def __init__(self, folder: Path, workers: Workers, server: cp.Sandbox, task: Task, ledger: str) -> None:
        folder.mkdir()
        self.task, self._ledger = task, ledger
        self.store, self.out, self.server, self._workers = folder / "store", folder / "out.parquet", server, workers
        source = folder / "in.parquet"
        pq.write_table(pa.table({"text": task.prompts}), source)
        self._command: dict[str, Any] = {"url": server.url, "store": str(self.store), "source": str(source)}
        self._command |= {"out": str(self.out), "max_batch_requests": 2, "chunk": 150, "grace": 1.0}
        self._command["ledger"] = ledger
        self._command |= task.options

    def start(self, **work: Any) -> int:
        return self._workers.start(**(self._command | work))

    @contextmanager
    def frozen_at(self, number: int) -> Iterator[None]:
        pid = self.start(strike_at=number, strike_with=signal.SIGSTOP, lease=LEASE)
        assert self._workers.await_stop(pid)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
        assert self.join(pid) == 0

    def join(self, pid: int) -> int:
        return self._workers.join(pid)

    def run(self, **work: Any) -> int:
        return self.join(self.start(**work))

    def is_free(self) -> bool:
        """Tell whether the ledger may be written: who is frozen in a transaction cannot be overtaken."""
        self.store.mkdir(exist_ok=True)
        return is_free(self.store, self._ledger)

    def is_about_to_send(self) -> bool:
        """Tell whether the last chunk of a body is still to leave, for which the intent stands on record."""
        found = shard_states(self.store, self._ledger)
        known = sum(batch_id is not None for _, batch_id in found)
        return "submitting" in dict(found) and self.server.usage()["batches"] == known

    def assert_all_answered_once(self, *, retries: int | None = None) -> None:
        table, usage = pq.read_table(self.out), self.server.usage()
        assert table["response"].to_pylist() == table["text"].to_pylist()
        assert (usage["answers_billed"], usage["answers_billed_twice"]) == (self.task.distinct, 0)
        assert usage["requests_accepted"] <= self.task.distinct + (self.task.retries if retries is None else retries)


class Scenario:
    """A run whose fault points are known: it can be brought to each of them, several at once."""

    def __init__(
        self,
        folder: Path,
        workers: Workers,
        *,
        task: Task = PLAIN,
        batch_seconds: float = 0.0,
        new_ledger: Callable[[], str] = lambda: "sqlite",
    ) -> None:
        self._folder, self._workers, self._task, self._batch_seconds = folder, workers, task, batch_seconds
        self._new_ledger = new_ledger

    @contextmanager
    def place(self, name: object) -> Iterator[Place]:
        with cp.Sandbox(answer=echo, rows=fail_once, batch_seconds=self._batch_seconds) as server:
            yield Place(self._folder / str(name), self._workers, server, self._task, self._new_ledger())

    def points(self, **work: Any) -> list[str]:
        path = self._folder / "points.json"
        with self.place("counted") as place:
            assert place.run(points=str(path), **work) == 0
        return json.loads(path.read_text())

    def at_each(
        self, points: list[str], check: Callable[[Place, int], None], *, numbers: Iterable[int] | None = None
    ) -> None:
        """Check each point, or some, at a place of its own, and then tell at which it went wrong."""

        def at(number: int) -> str:
            with self.place(number) as place:
                try:
                    check(place, number)
                except AssertionError as error:
                    return f"{number} ({points[number - 1]}): {type(error).__name__} {error}"
            return ""

        with ThreadPoolExecutor(AT_ONCE) as pool:
            wrong = filter(None, pool.map(at, numbers or range(1, len(points) + 1)))
            assert list(wrong) == []


def test_the_hook_sees_commits_renames_and_network_calls(tmp_path, workers):
    points = Scenario(tmp_path, workers).points()
    assert points.count("before commit") == points.count("after commit") > 30
    assert points.count("before replace") == points.count("after replace") > 5
    assert points.count("before send") == points.count("after send") > points.count("after answer") > 10


def test_a_run_killed_at_any_point_is_finished_by_the_next(tmp_path, workers):
    def kill_and_finish(place: Place, number: int) -> None:
        assert place.run(strike_at=number) == -signal.SIGKILL
        assert place.run() == 0
        place.assert_all_answered_once()

    scenario = Scenario(tmp_path, workers)
    scenario.at_each(scenario.points(), kill_and_finish)


def test_a_run_that_asks_again_is_finished_wherever_it_is_killed(tmp_path, workers):
    def kill_and_finish(place: Place, number: int) -> None:
        assert place.run(strike_at=number) == -signal.SIGKILL
        assert place.run() == 0
        place.assert_all_answered_once()

    scenario = Scenario(tmp_path, workers, task=AGAIN)
    points = scenario.points()
    scenario.at_each(points, kill_and_finish, numbers=range(len(points) // 4, len(points) + 1, 6))


def test_who_asks_again_at_the_same_time_finishes_wherever_another_is_killed(tmp_path, workers):
    def kill_beside(place: Place, number: int) -> None:
        other = place.start()
        place.run(strike_at=number)
        assert place.join(other) == 0
        place.assert_all_answered_once()

    scenario = Scenario(tmp_path, workers, task=AGAIN)
    points = scenario.points()
    scenario.at_each(points, kill_beside, numbers=range(len(points) // 4, len(points) + 1, 13))


def test_a_run_that_cancels_and_resumes_is_finished_wherever_it_is_killed(tmp_path, workers):
    def kill_and_finish(place: Place, number: int) -> None:
        assert place.run(strike_at=number, does="cancel") in {
            -signal.SIGKILL,
            0,
        }  # the clock decides how often it polls
        assert place.run(does="cancel") == 0
        place.assert_all_answered_once(retries=99)

    scenario = Scenario(tmp_path, workers, batch_seconds=0.1)
    scenario.at_each(scenario.points(does="cancel", poll=0.2), kill_and_finish)


def test_who_works_at_the_same_time_finishes_wherever_another_is_killed(tmp_path, workers):
    def kill_beside(place: Place, number: int) -> None:
        other = place.start()
        place.run(strike_at=number)
        assert place.join(other) == 0
        place.assert_all_answered_once()

    scenario = Scenario(tmp_path, workers)
    points = scenario.points()
    scenario.at_each(points, kill_beside, numbers=range(1, len(points) + 1, 5))


def test_a_run_frozen_past_its_lease_sends_nothing_twice_when_it_wakes(tmp_path, workers):
    overtaken, excepted = [], []

    def freeze_and_finish(place: Place, number: int) -> None:
        with place.frozen_at(number):
            if not place.is_free():
                return
            overtaken.append(number)
            excepted.extend([number] * place.is_about_to_send())
            assert place.run(lease=LEASE) == 0
        if number not in excepted:
            place.assert_all_answered_once()

    scenario = Scenario(tmp_path, workers)
    points = scenario.points()
    scenario.at_each(points, freeze_and_finish, numbers=range(3, len(points) + 1, 5))
    assert len(overtaken) > len(points) / 8
    assert len(excepted) <= 2 * PLAIN.batches  # just after the intent, and just before the last chunk


# The same on a server


def test_on_a_server_a_run_is_finished_wherever_it_is_killed(tmp_path, workers, postgres):
    def kill_and_finish(place: Place, number: int) -> None:
        assert place.run(strike_at=number) == -signal.SIGKILL
        assert place.run() == 0
        place.assert_all_answered_once()

    scenario = Scenario(tmp_path, workers, new_ledger=postgres.new_database)
    points = scenario.points()
    assert points.count("before commit") == points.count("after commit") > 30
    scenario.at_each(points, kill_and_finish, numbers=range(5, len(points) + 1, 29))


def test_on_a_server_a_run_frozen_past_its_lease_sends_nothing_twice_when_it_wakes(tmp_path, workers, postgres):
    excepted = []

    def freeze_and_finish(place: Place, number: int) -> None:
        with place.frozen_at(number):
            if not place.is_free():
                return
            excepted.extend([number] * place.is_about_to_send())
            assert place.run(lease=LEASE) == 0
        if number not in excepted:
            place.assert_all_answered_once()

    scenario = Scenario(tmp_path, workers, new_ledger=postgres.new_database)
    points = scenario.points()
    scenario.at_each(points, freeze_and_finish, numbers=range(9, len(points) + 1, 41))
    assert len(excepted) <= PLAIN.batches
