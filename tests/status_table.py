"""The fields of a JSON schema as the rows of a Markdown table: `uv run python tests/status_table.py` prints them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
SCHEMA = json.loads((DOCS / "status.schema.json").read_text())


def rows(schema: dict[str, Any], *, prefix: str = "") -> Iterator[str]:
    for name, field in schema["properties"].items():
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        yield f"| `{prefix}{name}` | {' or '.join(kinds)} | {field['description']} |"
        if "properties" in field:
            yield from rows(field, prefix=f"{prefix}{name}.")
        elif "items" in field:
            yield from rows(field["items"], prefix=f"{prefix}{name}[].")


if __name__ == "__main__":
    print("\n".join(rows(SCHEMA)))  # noqa: T201
