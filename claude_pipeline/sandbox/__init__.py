"""A local server that speaks the Anthropic API: `with Sandbox() as sandbox: sandbox.url`."""

from claude_pipeline.sandbox.errors import DataError, ListenError, SharedSandboxError
from claude_pipeline.sandbox.running import Sandbox, run_sandbox
from claude_pipeline.sandbox.shared import shared_sandbox

__all__ = ["DataError", "ListenError", "Sandbox", "SharedSandboxError", "run_sandbox", "shared_sandbox"]
