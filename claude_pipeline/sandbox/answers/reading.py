"""What a prompt says: its texts, and how many tokens they are."""

from typing import Any, Final

from claude_pipeline.sandbox.params import Params

CHARACTERS_A_TOKEN: Final = 4
UNREAD: Final = frozenset({"type", "role", "source", "id", "tool_use_id", "cache_control", "media_type"})
READ_SOURCES: Final = frozenset({"text", "content"})


def tokens(characters: int) -> int:
    """Estimate the tokens of so many characters; nothing is free."""
    return characters // CHARACTERS_A_TOKEN or 1


def input_tokens(params: Params) -> int:
    """Estimate the tokens of a prompt: system, messages and tools."""
    count = 0
    for turn in params["messages"]:
        count += characters(turn["content"])
    for key in ("system", "tools"):
        if key in params:
            count += characters(params[key])
    return tokens(count)


def characters(content: object) -> int:
    """Count the characters of the texts in content."""
    return len(content) if isinstance(content, str) else sum(map(len, texts(content)))


def is_plain(params: Params) -> bool:
    """Say whether every turn is one text."""
    for turn in params["messages"]:  # noqa: SIM110 - asked for every row, of mostly one turn: a generator costs more
        if not isinstance(turn["content"], str):
            return False
    return True


def last_user_text(params: Params) -> str:
    """Return the text of the last user turn; its blocks are lines."""
    for turn in reversed(params["messages"]):
        if turn["role"] == "user":
            content = turn["content"]
            return content if isinstance(content, str) else "\n".join(texts(content))
    return ""


def blocks(content: object) -> list[dict[str, Any]]:
    """Return the blocks of a turn's content; a string has none."""
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def texts(content: object) -> list[str]:
    """Return the texts in content, however deep they are."""
    # A stack of our own: a client may nest as deeply as JSON can be read.
    found: list[str] = []
    left = [content]
    while left:
        match left.pop():
            case str(text):
                found.append(text)
            case list(parts):
                left.extend(reversed(parts))
            case dict(block):
                left.extend(_read_values(block))
    return found


def _read_values(block: dict[str, Any]) -> list[object]:
    values: list[object] = [block[key] for key in reversed(block) if key not in UNREAD]
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") in READ_SOURCES:
        values.append(source)
    return values
