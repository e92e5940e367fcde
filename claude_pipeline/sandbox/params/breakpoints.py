"""Which blocks of a prompt may end a prefix to cache."""

from collections.abc import Iterator, Sequence
from typing import Final

from claude_pipeline.sandbox.errors import InvalidRequestError
from claude_pipeline.sandbox.params.message_shapes import Prompt, Tool
from claude_pipeline.sandbox.params.shapes import CacheControl
from claude_pipeline.sandbox.params.turn_shapes import ContentSource, Document, SearchResult, ToolResult

MOST: Final = 4
Placed = tuple[str, object]


def check_breakpoints(prompt: Prompt, *, tools: Sequence[Tool]) -> None:
    """Check that there are few enough of them, and that the longer-lived ones come first."""
    marks = list(_marks(prompt, tools))
    if len(marks) > MOST:
        raise InvalidRequestError(
            f"{marks[MOST][0]}: A maximum of {MOST} blocks with cache_control may be provided. Found {len(marks)}."
        )
    is_short = False
    for path, mark in marks:
        if is_short and mark.ttl == "1h":
            raise InvalidRequestError(
                f"{path}.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. "
                "Note that blocks are processed in the following order: `tools`, `system`, `messages`."
            )
        is_short |= mark.ttl != "1h"


def _marks(prompt: Prompt, tools: Sequence[Tool]) -> Iterator[tuple[str, CacheControl]]:
    for path, part in _parts(prompt, tools):
        mark = getattr(part, "cache_control", None)
        if mark is not None:
            yield f"{path}.cache_control", mark
    if prompt.cache_control is not None:
        yield "cache_control", prompt.cache_control


def _parts(prompt: Prompt, tools: Sequence[Tool]) -> Iterator[Placed]:
    for index, tool in enumerate(tools):
        yield f"tools.{index}", tool
    yield from _blocks("system", prompt.system)
    for index, turn in enumerate(prompt.messages):
        if not isinstance(turn.content, str):
            yield from _blocks(f"messages.{index}.content", turn.content)


def _blocks(path: str, content: object) -> Iterator[Placed]:
    if not isinstance(content, list):
        return
    for index, block in enumerate(content):
        # What a block holds comes before its own end.
        match block:
            case ToolResult() | SearchResult():
                yield from _blocks(f"{path}.{index}.content", block.content)
            case Document(source=ContentSource(content=inner)):
                yield from _blocks(f"{path}.{index}.source.content", inner)
        yield f"{path}.{index}", block
