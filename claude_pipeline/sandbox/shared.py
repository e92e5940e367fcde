"""One sandbox process for everybody who works on a folder: started on first use, and found again."""

import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from threading import Thread
from time import monotonic, sleep
from typing import Final

import msgspec

from claude_pipeline.sandbox.errors import SharedSandboxError
from claude_pipeline.sandbox.folder import LOOK_SECONDS, Announcement, alone, is_held, read_announcement, writing

HOST: Final = "127.0.0.1"
LOG: Final = "log"
LONGEST_ANSWER: Final = 1_000
ASK_SECONDS: Final = 2.0
START_SECONDS: Final = 60.0


def shared_sandbox(folder: Path, *, batch_seconds: float = 20.0, idle_seconds: float = 3600.0) -> str:
    """Return the URL of the one sandbox that serves `folder`; start it if it does not run.

    Only this machine reaches it. It outlives the process that started it, and ends after `idle_seconds` without
    a request. Started again it knows the same batches, and listens on the same port if that is free.
    One that runs keeps the seconds it was started with.

    Raises:
        FolderError: The folder cannot be written.
        SharedSandboxError: It does not start, or does not answer for a minute.
    """
    folder = folder.absolute()
    options = ["--batch-seconds", str(batch_seconds), "--idle-seconds", str(idle_seconds)]
    if url := _find(folder):
        return url
    with alone(folder, name="starting"):
        return _find_or_start(folder, options)


def _find_or_start(folder: Path, options: list[str]) -> str:
    server: Popen[bytes] | None = None
    known = read_announcement(folder)
    port = known.port if known else 0
    deadline = monotonic() + START_SECONDS
    while monotonic() < deadline:
        if url := _find(folder):
            return url
        if server and server.poll() is not None:
            # One that ended well was idle before anybody looked; else the port is most likely another's by now.
            if server.returncode and port == 0:
                raise SharedSandboxError(folder, reason=_last_words(folder / LOG))
            server, port = None, 0
        if server is None and not is_held(folder):
            server = _start(folder, ["--port", str(port), *options])
        sleep(LOOK_SECONDS)
    raise SharedSandboxError(folder, reason=f"no answer for {START_SECONDS:.0f} seconds")


def _find(folder: Path) -> str | None:
    announced = read_announcement(folder)
    if announced and _is_identified(announced):
        return f"http://{HOST}:{announced.port}"
    return None


def _is_identified(announced: Announcement) -> bool:
    """Ask who listens: the port, and the process id too, may be another's by now."""
    connection = HTTPConnection(HOST, announced.port, timeout=ASK_SECONDS)
    try:
        connection.request("GET", "/_sandbox/identity")
        answer = msgspec.json.decode(connection.getresponse().read(LONGEST_ANSWER))
    except (OSError, HTTPException, ValueError, msgspec.DecodeError):
        return False
    finally:
        connection.close()
    return bool(answer == {"identity": announced.identity})


def _start(folder: Path, options: list[str]) -> Popen[bytes]:
    # -P: whatever lies in the folder is no module.
    command = [sys.executable, "-P", "-m", "claude_pipeline.sandbox", "--host", HOST, "--data", str(folder), *options]
    with writing(folder), (folder / LOG).open("ab") as log:
        server = Popen(command, cwd=folder, stdin=DEVNULL, stdout=log, stderr=STDOUT, start_new_session=True)  # noqa: S603 - our own words
    # A starter that outlives the server leaves no zombie.
    Thread(target=server.wait, name="shared-sandbox", daemon=True).start()
    return server


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it says nothing")
