"""A local server that speaks the Anthropic API: `with Sandbox() as sandbox: sandbox.url`."""

from claude_pipeline.sandbox.errors import ListenError
from claude_pipeline.sandbox.running import Sandbox, run_sandbox

__all__ = ["ListenError", "Sandbox", "run_sandbox"]
