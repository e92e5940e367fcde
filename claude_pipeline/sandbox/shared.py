"""One sandbox process for everybody who works on a folder, started on first use and found again."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from http.client import HTTPException
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

IDENTITY: Final = "CLAUDE_PIPELINE_SANDBOX_IDENTITY"
START_SECONDS: Final = 60.0
ASK_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.02
# The shell leaves at once, so the server is nobody's child: no zombie, and nobody waits for it.
DETACH: Final = '"$@" </dev/null >address 2>>log &'


class SharedSandboxError(RuntimeError):
    """The sandbox of a folder could not be started."""


def shared_sandbox(folder: Path, *, batch_seconds: float = 20.0, idle_seconds: float = 3600.0) -> str:
    """Return the URL of the sandbox that serves `folder`, on this machine only; start it if it does not run.

    Its batches, port and process id stand in the folder. It survives its starter, ends after `idle_seconds` without a
    request, and goes on with the same batches, and on the same port if that is free, when it is asked for again.

    Raises:
        SharedSandboxError: It does not start; tells where its log is.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(folder):
        known = _read(folder)
        if _is_ours(known):
            return str(known["url"])
        options = ["--batch-seconds", str(batch_seconds), "--idle-seconds", str(idle_seconds)]
        identity = token_hex(16)
        url = _start(folder, _free_port(known), identity, options)
        if url is None:
            raise SharedSandboxError(f"The sandbox does not start; {folder / 'log'} says why.")
        _write(folder, {"url": url, "identity": identity})
        return url


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        flock(file, LOCK_EX)
        yield


def _read(folder: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError, ValueError):
        return dict(json.loads((folder / "server.json").read_text()))
    return {}


def _write(folder: Path, known: dict[str, Any]) -> None:
    temporary = folder / "server.json.tmp"
    temporary.write_text(json.dumps(known))
    temporary.replace(folder / "server.json")


def _is_ours(known: dict[str, Any]) -> bool:
    """Ask the server who it is: after a restart of the machine another one may have its port, or its process id."""
    return bool(known) and _identity(known["url"]) == known["identity"]


def _identity(url: str) -> str | None:
    with (
        suppress(OSError, HTTPException, ValueError, KeyError, TypeError),
        urlopen(f"{url}/_sandbox/identity", timeout=ASK_SECONDS) as response,  # noqa: S310  a loopback address
    ):
        return str(json.load(response)["identity"])
    return None


def _free_port(known: dict[str, Any]) -> int:
    """Choose the port of before, or any if it is taken."""
    port = urlsplit(known.get("url", "")).port or 0
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return port
    return 0


def _start(folder: Path, port: int, identity: str, options: list[str]) -> str | None:
    address = folder / "address"
    address.unlink(missing_ok=True)
    server = [sys.executable, "-m", "claude_pipeline.sandbox", "--port", str(port), "--data", "batches", *options]
    environment = os.environ | {IDENTITY: identity}
    subprocess.run(  # noqa: S603  our own words
        ["/bin/sh", "-c", DETACH, "sh", *server], cwd=folder, env=environment, start_new_session=True, check=True
    )
    deadline = monotonic() + START_SECONDS
    while monotonic() < deadline:
        said = address.read_text() if address.exists() else ""
        if said.endswith("\n"):
            url = said.strip()
            return url if _identity(url) == identity else None
        sleep(LOOK_SECONDS)
    return None
