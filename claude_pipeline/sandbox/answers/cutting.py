"""Where an answer ends before it is complete."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from claude_pipeline.sandbox.answers.reading import CHARACTERS_A_TOKEN
from claude_pipeline.sandbox.blocks import Block, TextBlock, ThinkingBlock, ToolUseBlock


def cut_text_at_stop_sequence(text: str, stop_sequences: Iterable[str] | None) -> tuple[str, str | None]:
    """Return the text before the first stop sequence in it, and that sequence."""
    found = [(text.index(stop), stop) for stop in stop_sequences or () if stop in text]
    if not found:
        return text, None
    position, stop = min(found)
    return text[:position], stop


def cut_at_stop_sequence(
    blocks: Sequence[Block], stop_sequences: Iterable[str] | None
) -> tuple[Sequence[Block], str | None]:
    """Return the blocks up to the first stop sequence in a text, and that sequence."""
    for index, block in enumerate(blocks):
        if isinstance(block, TextBlock):
            text, stop = cut_text_at_stop_sequence(block.text, stop_sequences)
            if stop is not None:
                return [*blocks[:index], replace(block, text=text)], stop
    return blocks, None


def cut_at_tokens(blocks: Sequence[Block], most: int) -> tuple[Sequence[Block], bool]:
    """Return what is written with `most` tokens, and whether that is less than all."""
    left = most * CHARACTERS_A_TOKEN
    for index, block in enumerate(blocks):
        length = length_of(block)
        if length > left:
            return [*blocks[:index], *_begun(block, left)], True
        left -= length
    return blocks, False


def length_of(block: Block) -> int:
    """Count the characters that a block is written with."""
    match block:
        case TextBlock():
            return len(block.text)
        case ThinkingBlock():
            return len(block.thinking)
        case ToolUseBlock():
            return _length(block.input)
        case _:
            return _length(block)


def _begun(block: Block, length: int) -> list[Block]:
    if length == 0:
        return []
    match block:
        case TextBlock():
            return [replace(block, text=block.text[:length])]
        case ThinkingBlock():
            return [replace(block, thinking=block.thinking[:length], signature="")]
        case ToolUseBlock():
            return [replace(block, input=_begun_object(block.input, length))]
        case _:
            return []


def _begun_object(value: dict[str, Any], length: int) -> dict[str, Any]:
    """Return the members that are complete, and the beginning of the next one if it is an object or an array."""
    kept: dict[str, Any] = {}
    left = length - len("{")
    for key, member in value.items():
        left -= _length(key) + len(":")
        if (size := _length(member)) > left:
            if (begun := _begun_value(member, left)) is not None:
                kept[key] = begun
            break
        kept[key] = member
        left -= size + len(",")
    return kept


def _begun_array(value: Sequence[Any], length: int) -> list[Any]:
    kept: list[Any] = []
    left = length - len("[")
    for item in value:
        if (size := _length(item)) > left:
            if (begun := _begun_value(item, left)) is not None:
                kept.append(begun)
            break
        kept.append(item)
        left -= size + len(",")
    return kept


def _begun_value(value: object, length: int) -> dict[str, Any] | list[Any] | None:
    if length <= 0:
        return None
    match value:
        case dict():
            return _begun_object(value, length)
        case list():
            return _begun_array(value, length)
        case _:
            return None


def _length(value: object) -> int:
    return len(msgspec.json.encode(value))
