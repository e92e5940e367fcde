"""Pictures for a page, as SVG that takes its colours from the page and its letters from the reader."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt

from claude_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

_INK, _FILL = "#010203", "#3b82c4"  # the ink becomes the page's own
_WIDTH, _HEIGHT, _BAR, _MARGINS = 6.0, 2.6, 0.3, 0.8
_MOST_BARS, _LONGEST = 12, 40
_BINS = 30
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "claude-pipeline",
    "font.size": 10,
    "path.simplify": False,  # small steps stay steps
    "text.parse_math": False,  # a dollar is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


def check_plotting() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        PipelineError: matplotlib is not installed; names the extra that brings it.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415, F401  whoever wants pictures waits for it
    except ImportError as error:
        raise PipelineError(
            'Pictures need Matplotlib, which is not installed: pip install "claude-pipeline[plot]"'
        ) from error


def bars(amounts: Mapping[str, float], *, unit: str, label: str) -> str:
    """Draw a bar for each amount, the largest on top; the smallest of many are left out."""
    ranked = sorted(amounts.items(), key=lambda pair: -pair[1])[:_MOST_BARS]
    lines = [" ".join(name.split()) for name, _ in ranked]
    names = [line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in lines]
    with _drawing(label, height=_MARGINS + _BAR * len(ranked)) as (axes, svg):
        places = range(len(ranked))
        axes.barh(places, [amount for _, amount in ranked], height=0.7, color=_FILL)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        if all(float(amount).is_integer() for _, amount in ranked):
            axes.locator_params("x", integer=True)
        _count_in_full(axes)
    return svg.getvalue()


def histogram(lengths: npt.NDArray[np.int64], *, unit: str, label: str) -> str:
    """Draw how values are distributed, of which there are `lengths[n]` that are n."""
    found = np.flatnonzero(lengths)
    edges = np.linspace(found[0], found[-1] + 1, min(_BINS, int(found[-1] - found[0]) + 1) + 1)
    counts, _ = np.histogram(found, edges, weights=lengths[found])
    with _drawing(label) as (axes, svg):
        axes.bar(edges[:-1], counts, width=np.diff(edges) * 0.95, align="edge", color=_FILL)
        axes.set_xlabel(unit)
        axes.set_ylabel("answers")
        axes.locator_params(integer=True)
        _count_in_full(axes)
    return svg.getvalue()


def steps(lines: Mapping[str, Sequence[tuple[float, int]]], *, unit: str, label: str) -> str:
    """Draw sums that grow: for each line, at what time how much was added."""
    with _drawing(label) as (axes, svg):
        for (name, points), style in zip(lines.items(), ("--", "-"), strict=False):
            times, added = zip(*sorted(points), strict=True)
            axes.step([times[0], *times], [0, *np.cumsum(added)], style, where="post", color=_FILL, label=name)
        axes.set_xlabel(unit)
        axes.set_ylabel("requests")
        axes.set_ylim(bottom=0)
        axes.locator_params("y", integer=True)
        axes.legend(frameon=False, loc="lower right")
        _count_in_full(axes)
    return svg.getvalue()


def _count_in_full(axes: "Axes") -> None:
    for axis in (axes.xaxis, axes.yaxis):
        if type(axis.get_major_formatter()).__name__ == "ScalarFormatter":
            axis.set_major_formatter("{x:,g}")


@contextmanager
def _drawing(label: str, *, height: float = _HEIGHT) -> "Iterator[tuple[Axes, StringIO]]":
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    svg = StringIO()
    with mpl.rc_context(_SETTINGS), catch_warnings():
        simplefilter("ignore", UserWarning)  # letters are the reader's, whatever font measures them here
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure.subplots(), svg
        drawn = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    _, _, body = drawn.getvalue().partition("<svg ")
    svg.write(f'<svg role="img" aria-label="{label}" {body.replace(_INK, "currentColor")}')
