"""One run: a sandbox, some processes at work, and who strikes them."""

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import claude_pipeline as cp

from .contestants import Work, obey
from .plan import Plan, Seat, Who, make_plan
from .tally import Tally, count

MOST_LIVES = 60
MOST_SECONDS = 120.0
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["benchmarks.chaos.contestants"])


class StuckError(Exception):
    """A run does not come to its end."""


@dataclass(slots=True)
class Arena:
    """What the seats of a run share, and what has happened there."""

    who: Who
    folder: Path
    url: str
    began: float = field(default_factory=time.time)
    happened: Counter[str] = field(default_factory=Counter)

    def work(self, number: int, seat: Seat) -> Work:
        """Write the input of a seat and say where everything is."""
        source = self.folder / f"in{number}.parquet"
        pq.write_table(pa.table({"prompt": [f"Prompt {prompt}" for prompt in seat.prompts]}), source)
        out, words = self.folder / f"out{number}.parquet", self.folder / f"words{number}.txt"
        return Work(source, out, self.folder / "store", self.url, words, seat.cancels, self.began)


def run(seed: int, *, who: Who) -> Tally:
    """Let one run come to its end and count what it came to.

    Raises:
        StuckError: It does not.
    """
    plan = make_plan(seed, who=who)
    with TemporaryDirectory(prefix="claude-pipeline-chaos-") as folder, _sandbox(plan) as server:
        arena = Arena(who, Path(folder), server.url)
        works = [arena.work(number, seat) for number, seat in enumerate(plan.seats)]
        with ThreadPoolExecutor(len(works)) as pool:
            list(pool.map(lambda seat, work: _live(arena, seat, work), plan.seats, works))
        time.sleep(plan.batch_seconds)  # a batch that everybody has forgotten ends as well
        return count(works, arena.happened)


def _sandbox(plan: Plan) -> cp.Sandbox:
    return cp.Sandbox(answer=_echo, batch_seconds=plan.batch_seconds, faults=plan.faults, seed=plan.seed)


def _echo(params: dict[str, Any]) -> str:
    return str(params["messages"][-1]["content"])


def _live(arena: Arena, seat: Seat, work: Work) -> None:
    """Start the command again until it has ended well, whatever strikes it."""
    strikes = iter(seat.strikes)
    deadline = time.monotonic() + MOST_SECONDS
    for _ in range(MOST_LIVES):
        process = _FORKS.Process(target=obey, args=(arena.who, work))
        process.start()
        for strike in strikes:
            process.join(strike.after)
            if process.exitcode is not None:
                break
            _hit(arena, process, strike.frozen_for)
            if strike.frozen_for is None:
                break
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
            raise StuckError(f"After {MOST_SECONDS:.0f} s it is not at its end.")
        if process.exitcode == 0:
            return
        if process.exitcode > 0:
            arena.happened[f"ended by {_last_word(work) or f'exit code {process.exitcode}'}"] += 1
    raise StuckError(f"It has not ended well in {MOST_LIVES} lives.")


def _last_word(work: Work) -> str:
    return work.words.read_text(encoding="utf-8") if work.words.exists() else ""


def _hit(arena: Arena, process: BaseProcess, frozen_for: float | None) -> None:
    pid = process.pid or 0
    with suppress(ProcessLookupError):
        if frozen_for is None:
            os.kill(pid, signal.SIGKILL)
            arena.happened["kills"] += 1
        else:
            os.kill(pid, signal.SIGSTOP)
            arena.happened["freezes"] += 1
            time.sleep(frozen_for)
            os.kill(pid, signal.SIGCONT)
