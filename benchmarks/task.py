"""What every contestant asks, and for how much of an answer."""

from typing import Final, Literal

Task = Literal["text", "long", "fields"]

MODEL: Final = "claude-haiku-4-5"
MAX_TOKENS: Final[dict[str, int]] = {"text": 64, "long": 8_000, "fields": 300}
FIELDS: Final = {"number": "integer", "opening": "string", "positive": "boolean"}
SCHEMA: Final[dict[str, object]] = {
    "type": "object",
    "properties": {name: {"type": kind} for name, kind in FIELDS.items()},
    "required": [*FIELDS],
    "additionalProperties": False,
}
OUTPUT_CONFIG: Final[dict[str, object]] = {"format": {"type": "json_schema", "schema": SCHEMA}}
FILLER: Final = " The service was quick and the food was fine, so we would come again soon." * 213  # 16 kB
