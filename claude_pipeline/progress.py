"""Progress in a notebook: a bar under the cell that waits."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from claude_pipeline import display
from claude_pipeline.status import Status

if TYPE_CHECKING:
    from tqdm import tqdm

OnStatus = Callable[[Status], None]

_FORMAT = "{desc} |{bar:40}| {elapsed}{postfix}"


@contextmanager
def showing(on_status: OnStatus | None) -> Iterator[OnStatus]:
    """Yield whom to show each status: `on_status`; else a bar in a notebook, and nobody elsewhere."""
    if on_status is not None or not in_notebook():
        yield on_status or _nobody
        return
    bar = Bar()
    try:
        yield bar.show
    finally:
        bar.close()


def in_notebook() -> bool:
    """Tell whether this process runs the cells of a notebook: it is an IPython kernel, not a shell or a script."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class Bar:
    """A bar of finished requests. Its text goes to stdout, which notebooks do not paint red."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None

    def show(self, status: Status) -> None:
        """Draw this status; a job that asks nothing itself has no bar."""
        if not status.requests:
            return
        bar = self._bar = self._bar or _new_bar(status.requests)
        bar.total, bar.n = status.requests, status.counts.finished
        bar.set_description_str(display.percent(status).rjust(4), refresh=False)
        bar.set_postfix_str(_said(status), refresh=False)
        bar.refresh()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def _new_bar(total: int) -> "tqdm[None]":
    from tqdm import tqdm  # noqa: PLC0415  only a notebook needs it

    return tqdm(total=total, file=sys.stdout, bar_format=_FORMAT)


def _said(status: Status) -> str:
    said = f"{display.count(status.counts.finished)} of {display.plural(status.requests, 'request')}"
    return f"{said} · {status.reason}" if status.reason else said


def _nobody(_status: Status) -> None:
    """Show nothing."""
