"""Parameters of messages to try the sandbox with, and what it says to wrong ones."""

from types import MappingProxyType

import pytest

from claude_pipeline.sandbox.errors import ApiError
from claude_pipeline.sandbox.params import check_in_batch

NOW, BEFORE = "2026-10-21", "2023-06-01"

EPHEMERAL = {"type": "ephemeral"}
TEXT = {"type": "text", "text": "Words."}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
PLAIN = MappingProxyType(
    {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello."}]}
)


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def refusal(params, *, check=check_in_batch, version=NOW):
    with pytest.raises(ApiError) as refused:
        check(params, version=version)
    return refused.value.message
