"""A sandbox for tests: ask for the fixture `claude_sandbox`, and every client talks to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from claude_pipeline.sandbox import Sandbox

MARKER = "claude_sandbox(**options): the arguments of claude_pipeline.Sandbox for the fixture of this name."


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def claude_sandbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator["Sandbox"]:
    """Run a sandbox for one test, with a store of its own.

    `ANTHROPIC_BASE_URL`, `ANTHROPIC_API_KEY` and `CLAUDE_PIPELINE_STORE` name them, so code under test finds
    both by itself, in subprocesses too. Options come from `@pytest.mark.claude_sandbox(batch_seconds=1)`, the
    nearest marker first.
    """
    from claude_pipeline.sandbox import Sandbox  # noqa: PLC0415 - a server is loaded by the tests that use one

    markers = [*request.node.iter_markers("claude_sandbox")][::-1]
    if given := [value for marker in markers for value in marker.args]:
        pytest.fail(f"@pytest.mark.claude_sandbox takes keywords, such as faults={given[0]!r}, not {given[0]!r}.")
    options = {key: value for marker in markers for key, value in marker.kwargs.items()}
    with Sandbox(**options) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sandbox")
        monkeypatch.setenv("CLAUDE_PIPELINE_STORE", str(tmp_path / "claude_pipeline_store"))
        monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
        yield sandbox
