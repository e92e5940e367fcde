"""Who works on what: an owner's name, and whether it still lives.

A lease lasts 60 seconds and is renewed every 15. An owner on this host that is dead is replaced at once.
"""

import os
import platform
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from claude_pipeline.errors import PipelineError

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
_ZOMBIE = "Z"  # killed, and its parent has not asked how it ended
_HIDDEN = "alive"  # no more can be seen of it


class LeaseLostError(PipelineError):
    """Another process took over what this one was doing."""

    def __init__(self) -> None:
        super().__init__("Another process took this over; nothing more was done here.")


def new_owner() -> str:
    """Name the calling process, unlike any other owner."""
    return " ".join([_host(), str(os.getpid()), _start_time(os.getpid()), uuid.uuid4().hex])


def is_dead(owner: str) -> bool:
    """Tell whether an owner is a process of this host that runs no more."""
    host, pid, start_time, _ = owner.split(" ")
    return host == _host() and _start_time(int(pid)) not in {start_time, _HIDDEN}


@contextmanager
def renewed(renew: Callable[[], object]) -> Iterator[None]:
    """Call `renew` every 15 seconds while the body runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(RENEW_SECONDS):
            with suppress(PipelineError):  # a full disk or a locked ledger now; the next beat may come in time
                renew()

    thread = threading.Thread(target=beat, name="claude-pipeline-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _host() -> str:
    """Name what process numbers are unique in: this boot of this machine, or a container on it."""
    boot, container = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and container.exists():
        return f"{boot.read_text().strip()}-{container.stat().st_ino}"
    return f"{platform.node().replace(' ', '-')}-{uuid.getnode():x}"


def _start_time(pid: int) -> str:
    """Return what tells a process from a later one with its number; empty when there is none."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        # Bytes: the name of a process, cut by the kernel, need not be text.
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
        return "" if state == _ZOMBIE else fields[18]
    try:
        with suppress(PermissionError):
            os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    return _HIDDEN
