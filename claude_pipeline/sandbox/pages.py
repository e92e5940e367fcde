"""Lists, a page at a time."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from claude_pipeline.sandbox.errors import InvalidRequestError

USUAL_LIMIT: Final = 20
MOST_ITEMS: Final = 1_000


def page(ids: Sequence[str], query: Mapping[str, str]) -> tuple[Sequence[str], bool]:
    """Choose a page of `ids` by `limit`, `after_id` and `before_id`, and say whether more follow."""
    limit = _limit(query.get("limit", str(USUAL_LIMIT)))
    if "after_id" in query and "before_id" in query:
        raise InvalidRequestError("before_id: Not allowed together with after_id")
    if "before_id" in query:
        end = _position(ids, "before_id", query)
        return ids[max(0, end - limit) : end], end > limit
    start = _position(ids, "after_id", query) + 1 if "after_id" in query else 0
    return ids[start : start + limit], start + limit < len(ids)


def show_page(items: Sequence[Any], ids: Sequence[str], *, has_more: bool) -> dict[str, Any]:
    """Show a page as the API does."""
    return {
        "data": items,
        "has_more": has_more,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def _limit(text: str) -> int:
    try:
        limit = int(text)
    except ValueError:
        raise InvalidRequestError("limit: Input should be a valid integer") from None
    if not 1 <= limit <= MOST_ITEMS:
        raise InvalidRequestError(f"limit: Input should be from 1 to {MOST_ITEMS}")
    return limit


def _position(ids: Sequence[str], key: str, query: Mapping[str, str]) -> int:
    try:
        return ids.index(query[key])
    except ValueError:
        raise InvalidRequestError(f"{key}: Nothing in this list has the id {query[key]!r}") from None
