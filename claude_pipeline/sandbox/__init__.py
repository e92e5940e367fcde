"""A local server that speaks the Anthropic API: `with Sandbox() as sandbox: sandbox.url`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from claude_pipeline.sandbox.errors import DataError, ListenError, SharedSandboxError
    from claude_pipeline.sandbox.running import Sandbox, run_sandbox
    from claude_pipeline.sandbox.shared import shared_sandbox

__all__ = ["DataError", "ListenError", "Sandbox", "SharedSandboxError", "run_sandbox", "shared_sandbox"]

_LATE = {
    "DataError": "errors",
    "ListenError": "errors",
    "Sandbox": "running",
    "SharedSandboxError": "errors",
    "run_sandbox": "running",
    "shared_sandbox": "shared",
}


def __getattr__(name: str) -> object:
    """Import what needs more than the standard library when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
