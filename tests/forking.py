"""Warm workers for tests that kill: run as a program, it forks one for each line that it reads."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Self

from faultpoints import FaultPoints, OnPoint, strike

import claude_pipeline as cp
from claude_pipeline import batches, leases, ledger, planning, postgres, pricing, settling, transport

GRACE_SECONDS = 2.0
LOOK_SECONDS = 0.005
RUNNING, STOPPED = "running", "stopped"
ASKED: dict[str, Any] = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16}
CLIENT = transport.make_client("http://127.0.0.1:1")  # the SDK and its certificates take longest


class Workers:
    """Processes that have imported everything; use it with `with`, `start` one, and `join` it. Threads may share it."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = Lock()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._parent.communicate()

    def start(self, **work: Any) -> int:
        return int(self._tell({"start": work}))

    def join(self, pid: int) -> int:
        """Wait until a process has ended, and return its exit code."""
        return int(self._wait(pid, while_it_is={RUNNING, STOPPED}))

    def await_stop(self, pid: int) -> bool:
        """Wait until a process has stopped or ended; tell whether it has stopped."""
        return self._wait(pid, while_it_is={RUNNING}) == STOPPED

    def _wait(self, pid: int, *, while_it_is: set[str]) -> str:
        while (state := self._tell({"look": pid})) in while_it_is:
            time.sleep(LOOK_SECONDS)
        return state

    def _tell(self, line: dict[str, Any]) -> str:
        with self._lock:
            print(json.dumps(line), file=self._parent.stdin, flush=True)
            return self._parent.stdout.readline().strip()


def run(
    watch: Callable[[], None],
    *,
    url: str,
    store: str,
    source: str,
    out: str | None = None,
    lease: float = 60.0,
    grace: float = GRACE_SECONDS,
    chunk: int = batches.CHUNK_BYTES,
    claimed: int = 1,
    poll: float = 0.02,
    does: str = "wait",
    **settings: Any,
) -> None:
    """Submit a table, then `wait` for it, or `cancel` and `resume` it, or just `leave` it; and write it; or `recover`.

    All of it is watched, or the canceling and resuming alone. A transaction claims at least `claimed` requests.
    """
    planning.CLAIMED_AT_ONCE = claimed
    settling.GRACE_SECONDS, batches.CHUNK_BYTES = grace, chunk
    leases.LEASE_SECONDS = ledger.LEASE_SECONDS = settling.LEASE_SECONDS = lease
    leases.RENEW_SECONDS = lease / 4
    if does in {"wait", "recover"}:
        watch()
    if does == "recover":
        cp.recover(store=store, client=CLIENT.with_options(base_url=url))
        return
    job = cp.submit(source, store=store, client=CLIENT.with_options(base_url=url), **(ASKED | settings))
    if does == "cancel":
        watch()
        job.cancel()
        job.wait(poll_interval=poll)
        job.resume()
        sys.setprofile(None)
    if does != "leave":
        job.wait(poll_interval=poll)
    if out:
        job.write(out)


def run_watched(
    *,
    points: str | None = None,
    strike_at: int = 0,
    strike_among: str = "",
    strike_with: int = signal.SIGKILL,
    **work: Any,
) -> None:
    """Run, and list the fault points in a file, or strike at one of them."""
    seen: list[str] = []
    on_point: OnPoint = lambda _number, name: seen.append(name)  # noqa: E731  the other one is a closure as well
    if strike_at:
        on_point = strike(strike_with, at=strike_at, among=strike_among)
    watch = FaultPoints(on_point).install if points or strike_at else lambda: None
    run(watch, **work)
    sys.setprofile(None)
    if points:
        Path(points).write_text(json.dumps(seen))


def _fork(work: dict[str, Any]) -> int:
    if pid := os.fork():
        return pid
    try:
        run_watched(**work)
        os._exit(0)
    except BaseException:  # noqa: BLE001  a fork must never go on as its parent
        traceback.print_exc()
        os._exit(1)


def _look(pid: int) -> int | str:
    """Say what has become of a fork: an exit code, which is asked for once, or that there is none yet."""
    ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if not ended:
        return RUNNING
    return STOPPED if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


def _reply(said: int | str) -> None:
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()


def _load_what_loads_late() -> None:
    _ = cp.submit
    pricing.PriceList(datetime.now(UTC)).tiers(ASKED["model"])
    "localhost".encode("idna")
    postgres._driver()


def _main() -> None:
    _load_what_loads_late()
    sys.dont_write_bytecode = True  # which is a file renamed, and only where a fork is the first to import something
    gc.freeze()  # what a fork's collector would look at, it would copy
    for line in sys.stdin:
        match json.loads(line):
            case {"start": work}:
                _reply(_fork(work))
            case {"look": pid}:
                _reply(_look(pid))


if __name__ == "__main__":
    _main()
