"""Which turns the API accepts, one after the other."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from typing import Final

from claude_pipeline.sandbox.errors import InvalidRequestError
from claude_pipeline.sandbox.params.turn_shapes import (
    AssistantTurn,
    Block,
    Compaction,
    McpToolUse,
    RedactedThinking,
    ServerToolUse,
    SystemTurn,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Turn,
    UserTurn,
    Words,
)

Placed = tuple[str, Block]

GENERATION: Final = re.compile(r"(?<!\d)(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
LAST_WITH_PREFILL: Final = (4, 5)
PAUSING: Final = (ServerToolUse, McpToolUse, Compaction)
BY_ASSISTANTS: Final = (ToolUse, Thinking, RedactedThinking)


def check_turns(turns: Sequence[Turn]) -> bool:
    """Check who speaks, what is said, and that tool calls are answered; tell whether any turn is made of blocks."""
    if not turns:
        raise InvalidRequestError("messages: at least one message is required")
    in_blocks = False
    for index, turn in enumerate(turns):
        # Most turns are one text, and there are many of them.
        if not isinstance(turn.content, str) or not turn.content or turn.content.isspace():
            in_blocks |= _check_turn(index, turns)
    if not isinstance(turns[0], UserTurn):
        raise InvalidRequestError('messages: first message must use the "user" role')
    if in_blocks:
        _check_tools_answered(turns)
    return in_blocks


def check_prefill(turns: Sequence[Turn], *, model: str) -> None:
    """Check that a model may go on with a last turn of the assistant's."""
    last = turns[-1]
    if not isinstance(last, AssistantTurn) or _is_paused(last):
        return
    if _generation(model) > LAST_WITH_PREFILL:
        raise InvalidRequestError(
            "messages: This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
    end = last.content if isinstance(last.content, str) else _last_text(last.content)
    if end != end.rstrip():
        raise InvalidRequestError("messages: final assistant content cannot end with trailing whitespace")


def check_text(text: str, *, path: str) -> None:
    """Check that a text says something."""
    if not text:
        raise InvalidRequestError(f"{path}: text content blocks must be non-empty")
    if text.isspace():
        raise InvalidRequestError(f"{path}: text content blocks must contain non-whitespace text")


def check_texts(blocks: Sequence[object], *, path: str) -> None:
    """Check that each block of text says something."""
    for index, block in enumerate(blocks):
        if isinstance(block, Words):
            check_text(block.text, path=f"{path}.{index}.text")


def _check_turn(index: int, turns: Sequence[Turn]) -> bool:
    turn, path = turns[index], f"messages.{index}.content"
    if not turn.content:
        _check_empty(index, turns)
    elif isinstance(turn.content, str):
        check_text(turn.content, path=path)
    else:
        _check_blocks(turn.content, turn, path=path)
    return isinstance(turn.content, list)


def _check_empty(index: int, turns: Sequence[Turn]) -> None:
    turn = turns[index]
    if isinstance(turn, SystemTurn) and turn.output_config is not None:
        return
    if turn.content is None:
        raise InvalidRequestError(f"messages.{index}.content: Field required")
    if not isinstance(turn, AssistantTurn) or index < len(turns) - 1:
        reason = "all messages must have non-empty content except for the optional final assistant message"
        raise InvalidRequestError(f"messages.{index}: {reason}")


def _check_blocks(blocks: Sequence[Block], turn: Turn, *, path: str) -> None:
    check_texts(blocks, path=path)
    misplaced = ToolResult if isinstance(turn, AssistantTurn) else BY_ASSISTANTS
    for index, block in enumerate(blocks):
        if isinstance(block, misplaced):
            kind, role = block.__struct_config__.tag, "user" if isinstance(block, ToolResult) else "assistant"
            raise InvalidRequestError(f"{path}.{index}: `{kind}` blocks can only be in `{role}` messages")
        if isinstance(block, ToolResult) and isinstance(block.content, list):
            check_texts(block.content, path=f"{path}.{index}.content")


def _check_tools_answered(turns: Sequence[Turn]) -> None:
    asked: dict[str, str] = {}
    for blocks in _rounds(turns):
        _check_results_asked(blocks, asked)
        _check_results_given(blocks, asked)
        asked = _asked(blocks)
    _check_results_given([], asked)


def _rounds(turns: Sequence[Turn]) -> Iterator[list[Placed]]:
    """Join turns of the same speaker, as the API does."""
    spoken = [(index, turn) for index, turn in enumerate(turns) if not isinstance(turn, SystemTurn)]
    for _, group in groupby(spoken, key=lambda each: type(each[1])):
        yield [placed for index, turn in group for placed in _placed(index, turn)]


def _placed(index: int, turn: UserTurn | AssistantTurn) -> list[Placed]:
    if isinstance(turn.content, str):
        return [(f"messages.{index}.content", Text(text=turn.content))]
    return [(f"messages.{index}.content.{position}", block) for position, block in enumerate(turn.content)]


def _asked(blocks: Sequence[Placed]) -> dict[str, str]:
    asked: dict[str, str] = {}
    for path, block in blocks:
        if isinstance(block, ToolUse):
            if block.id in asked:
                raise InvalidRequestError(f"{path}.id: `tool_use` ids must be unique")
            asked[block.id] = path
    return asked


def _check_results_asked(blocks: Sequence[Placed], asked: dict[str, str]) -> None:
    for path, block in blocks:
        if isinstance(block, ToolResult) and block.tool_use_id not in asked:
            raise InvalidRequestError(
                f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {block.tool_use_id}. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous message."
            )


def _check_results_given(blocks: Sequence[Placed], asked: dict[str, str]) -> None:
    first = takewhile(lambda placed: isinstance(placed[1], ToolResult), blocks)
    given = {block.tool_use_id for _, block in first if isinstance(block, ToolResult)}
    missing = {tool_use_id: path for tool_use_id, path in asked.items() if tool_use_id not in given}
    if missing:
        raise InvalidRequestError(
            f"{next(iter(missing.values()))}: `tool_use` ids were found without `tool_result` blocks immediately "
            f"after: {', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in "
            "the next message."
        )


def _is_paused(turn: AssistantTurn) -> bool:
    return not isinstance(turn.content, str) and any(isinstance(block, PAUSING) for block in turn.content)


def _last_text(blocks: Sequence[Block]) -> str:
    last = blocks[-1] if blocks else None
    return last.text if isinstance(last, Text) else ""


def _generation(model: str) -> tuple[int, int]:
    # A name without a number is newer than every number.
    match = GENERATION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else (99, 0)
