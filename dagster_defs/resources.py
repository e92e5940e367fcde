"""Who answers here: the API when there is a key, else a sandbox, which says so on every asset."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

import claude_pipeline as cp
from claude_pipeline.dagster import ClaudeResource
from claude_pipeline.sandbox import shared_sandbox

if TYPE_CHECKING:
    from anthropic import Anthropic

BATCH_SECONDS = 20.0


class SampleClaudeResource(ClaudeResource):
    """`ClaudeResource` for trying things out: without a key, this store's own sandbox plays the API."""

    @property
    def _is_sandboxed(self) -> bool:
        return not (self.api_key or self.base_url or os.environ.get("ANTHROPIC_API_KEY"))

    def _connect(self) -> "Anthropic":
        """Return a client of the API, or of the sandbox that all processes on this store share."""
        if not self._is_sandboxed:
            return super()._connect()
        seconds = float(os.environ.get("CLAUDE_PIPELINE_SANDBOX_SECONDS", BATCH_SECONDS))
        return cp.make_client(
            shared_sandbox(Path(self.store_path() / "sandbox"), batch_seconds=seconds), api_key="sandbox"
        )

    def describe(self) -> dict[str, Any]:
        """Say plainly whose answers these are."""
        said = "These are sandbox answers: no model wrote them. Set ANTHROPIC_API_KEY to ask the API."
        return {"sandbox": dg.MetadataValue.md(f"**{said}**")} if self._is_sandboxed else {}
