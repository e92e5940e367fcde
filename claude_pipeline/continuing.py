"""Going on with an answer that broke off: what to ask, and how the pieces fit together.

Up to Claude 4.5 the partial text stands as the beginning of the assistant's turn; from 4.6 on, where the API refuses
that, a further turn of the user's quotes it (Anthropic's guide to streaming, "Error recovery").
"""

import re
from typing import Any

import msgspec

_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?![\d])")
_LAST_WITH_PREFILL = (4, 5)
_LEAST_OVERLAP, _MOST_OVERLAP = 16, 400
_WORDS = (
    "Your previous response was interrupted and ended with:\n\n{text}\n\n"
    "Continue from exactly where it ended, and repeat nothing."
)


def takes_prefill(model: str) -> bool:
    """Tell whether a model takes the beginning of its answer; of an unknown one nothing is known."""
    found = _VERSION.match(model)
    return found is not None and (int(found[1]), int(found[2] or 0)) <= _LAST_WITH_PREFILL


def can_continue(params: dict[str, Any]) -> bool:
    """Tell whether a text answer to a request can be continued.

    One that was thought about, or that must fit a schema, cannot, nor one whose beginning the user has written.
    """
    thinks = (params.get("thinking") or {}).get("type") not in {None, "disabled"}
    has_schema = "format" in (params.get("output_config") or {})
    return not (thinks or has_schema or params["messages"][-1]["role"] == "assistant")


def continued(params: dict[str, Any], text: str) -> bytes:
    """Write the `params` that ask for the rest of an answer whose beginning is `text`."""
    if takes_prefill(params["model"]):
        turn = {"role": "assistant", "content": text.rstrip()}  # the API refuses blanks at its end
    else:
        turn = {"role": "user", "content": _WORDS.format(text=text)}
    return msgspec.json.encode(params | {"messages": [*params["messages"], turn]})


class Seam:
    """Joins the rest of an answer to its beginning, piece by piece; see `joined`."""

    def __init__(self, before: str, *, model: str) -> None:
        self._before, self._quoted = before, not takes_prefill(model)
        self._wanted = _MOST_OVERLAP if self._quoted else len(_blanks(before))
        self._held: str | None = ""

    def add(self, text: str) -> str:
        """Take a piece of the rest; return what to say of it now."""
        if self._held is None:
            return text
        self._held += text
        return self.finish() if len(self._held) >= self._wanted else ""

    def finish(self) -> str:
        """Return what is still to be said once all of the rest has come, or enough of it."""
        held, self._held = self._held or "", None
        return held[_overlap(self._before, held, quoted=self._quoted) :]


def joined(before: str, after: str, *, model: str) -> str:
    """Join the rest of an answer to its beginning: what the rest says once more is left out.

    After a prefill that can only be blanks, which were not sent; else a model may begin with the last words again.
    """
    return before + after[_overlap(before, after[:_MOST_OVERLAP], quoted=not takes_prefill(model)) :]


def _overlap(before: str, after: str, *, quoted: bool) -> int:
    longest = min(_MOST_OVERLAP, len(before), len(after))
    for length in range(longest, _LEAST_OVERLAP - 1, -1) if quoted else ():
        if before.endswith(after[:length]):
            return length
    blanks = _blanks(before)
    return next((n for n in range(min(len(blanks), len(after)), 0, -1) if blanks.endswith(after[:n])), 0)


def _blanks(text: str) -> str:
    return text[len(text.rstrip()) :]
