"""The models that the sandbox lists; it answers for every id that starts with `claude-`."""

from typing import Any, Final

IDS: Final = (
    "claude-fable-5-2",
    "claude-haiku-5-5",
    "claude-sonnet-5-5",
    "claude-opus-5-5",
    "claude-sonnet-5",
    "claude-opus-5",
    "claude-opus-4-6",
    "claude-sonnet-4-6",
    "claude-haiku-4-5",
    "claude-opus-4-5",
    "claude-sonnet-4-5",
)
LINES: Final = frozenset({"haiku", "sonnet", "opus", "fable", "mythos"})


def model_info(model_id: str) -> dict[str, Any]:
    """Describe a model as the API does."""
    words = model_id.split("-")
    line = next(iter(LINES.intersection(words[1:2])), None)
    return {
        "type": "model",
        "id": model_id,
        "display_name": " ".join([*map(str.title, words[:2]), ".".join(words[2:])]).strip(),
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "line": line,
        "capabilities": None,
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }
