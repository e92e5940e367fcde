"""Progress in a notebook: the job's card under the cell that waits, drawn anew in place."""

import sys
import time
from collections.abc import Callable
from typing import Any

from claude_pipeline.cards import card
from claude_pipeline.display import full_line
from claude_pipeline.status import Status

OnStatus = Callable[[Status], None]


def this_cell() -> int | None:
    """Return the number of the cell that a notebook runs; None in a script, a shell or IPython's terminal."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return int(shell.execution_count) if hasattr(shell, "kernel") else None


class Live:
    """What is shown under a cell, and is replaced there as often as it changes. Where no HTML is shown, its text is."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last: tuple[str, str] | None = None

    def show(self, html: str, text: str) -> None:
        """Show this from now on."""
        if (html, text) == self._last:
            return
        self._last = html, text
        data = {"text/html": html, "text/plain": text}
        if self._handle is not None:
            self._handle.update(data, raw=True)
            return
        from IPython.display import display  # noqa: PLC0415  a kernel has it

        self._handle = display(data, raw=True, display_id=True)


def shown_live() -> OnStatus:
    """Return what shows a status as a card that is drawn anew in place."""
    live = Live()
    return lambda status: live.show(card(status, now=time.time()), full_line(status))
