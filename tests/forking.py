"""Warm workers for tests that kill: run as a program, it forks one for each line that it reads."""

import json
import os
import subprocess
import sys
import traceback
from typing import Any, Self

import claude_pipeline as cp
from claude_pipeline import leases, ledger, sending
from claude_pipeline.batches import make_client

GRACE_SECONDS = 2.0


class Workers:
    """Processes that have imported everything; use it with `with`, `start` one, and `join` it."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._parent.communicate()

    def start(self, **work: Any) -> int:
        return self._tell({"start": work})

    def join(self, pid: int) -> int:
        return self._tell({"join": pid})

    def _tell(self, line: dict[str, Any]) -> int:
        print(json.dumps(line), file=self._parent.stdin, flush=True)
        return int(self._parent.stdout.readline())


def run(
    *,
    url: str,
    store: str,
    source: str,
    out: str | None = None,
    lease: float = 60.0,
    waits: bool = True,
    **settings: Any,
) -> None:
    """Submit a table, wait for it and write it."""
    sending.GRACE_SECONDS = GRACE_SECONDS
    leases.LEASE_SECONDS = ledger.LEASE_SECONDS = sending.LEASE_SECONDS = lease
    leases.RENEW_SECONDS = lease / 4
    asked = {"prompt_column": "text", "model": "claude-haiku-4-5", "max_tokens": 16} | settings
    job = cp.submit(source, store=store, base_url=url, **asked)
    if waits:
        job.wait(poll_interval=0.02)
    if out:
        job.write(out)


def _fork(work: dict[str, Any]) -> int:
    if pid := os.fork():
        return pid
    try:
        run(**work)
        os._exit(0)
    except BaseException:  # noqa: BLE001  a fork must never go on as its parent
        traceback.print_exc()
        os._exit(1)


def _reply(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _main() -> None:
    make_client("http://127.0.0.1:1")  # loads the SDK, which takes longest
    for line in sys.stdin:
        match json.loads(line):
            case {"start": work}:
                _reply(_fork(work))
            case {"join": pid}:
                _reply(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    _main()
