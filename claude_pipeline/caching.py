"""Prefix caching in one word: the same `cache_control` on all that the rows of a job begin with."""

from collections.abc import Mapping, Sequence
from typing import Literal

from claude_pipeline.errors import InputError

Cache = Literal["5m", "1h"]
Block = Mapping[str, object]

# The least that any model keeps, and what the most demanding ones want:
# https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching
LEAST_TOKENS, SAFE_TOKENS = 1024, 4096


def cache_control(cache: str | None) -> Block | None:
    """Return the `cache_control` that a word stands for.

    Raises:
        InputError: It is neither "5m" nor "1h".
    """
    if cache is None:
        return None
    if cache not in {"5m", "1h"}:
        raise InputError(f"cache is {cache!r}. It is how long a prefix is kept: '5m' or '1h'.")
    return {"type": "ephemeral", "ttl": cache}


def cached(blocks: Sequence[Block], control: Block | None) -> list[Block]:
    """Mark the last of some tools or blocks, and with it everything before it."""
    *before, last = blocks
    return [*before, last if control is None or "cache_control" in last else {**last, "cache_control": control}]


def text_block(text: str, control: Block | None) -> Block:
    """Make a text block."""
    return cached([{"type": "text", "text": text}], control)[0]
