"""An environment of its own for each peer, kept in the user's cache folder."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "claude-pipeline-benchmarks"
MADE = "made"


class UnavailableError(Exception):
    """An environment cannot be made here; the message says why."""


def interpreter(name: str, requirements: Sequence[str], *, version: str) -> Path:
    """Return the Python of an environment with these requirements; make it the first time.

    Raises:
        UnavailableError: There is no such Python, or something does not install.
    """
    digest = blake2b("\n".join([version, *requirements]).encode(), digest_size=6).hexdigest()
    folder = CACHE / f"{name}-{digest}"
    found = folder / "bin" / "python"
    if (folder / MADE).exists():
        return found
    shutil.rmtree(folder, ignore_errors=True)
    _uv(["venv", "--python", version, str(folder)], reason=f"needs Python {version}, which is not here")
    install = ["pip", "install", "--compile-bytecode", "--python", str(found), *requirements]
    _uv(install, reason=f"{' '.join(requirements)} does not install")
    (folder / MADE).touch()
    return found


def _uv(arguments: Sequence[str], *, reason: str) -> None:
    uv = shutil.which("uv")
    if not uv:
        raise UnavailableError("needs uv")
    ended = subprocess.run([uv, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - uv, with our own words
    if ended.returncode:
        raise UnavailableError(reason)
