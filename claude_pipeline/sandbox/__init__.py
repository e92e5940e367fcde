"""A local server that speaks the Anthropic API: `with Sandbox() as sandbox: sandbox.url`."""

from claude_pipeline.sandbox.errors import ListenError
from claude_pipeline.sandbox.running import Sandbox, run_sandbox
from claude_pipeline.sandbox.shared import SharedSandboxError, shared_sandbox

__all__ = ["ListenError", "Sandbox", "SharedSandboxError", "run_sandbox", "shared_sandbox"]
