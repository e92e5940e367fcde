"""What was paid and what was saved, as a picture."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from claude_pipeline.display import usd
from claude_pipeline.errors import OutputError
from claude_pipeline.files import replacing
from claude_pipeline.pictures import check_plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUFFIXES = (".png", ".svg", ".pdf")
_PAID, _SAVED = "#c2613f", "#e9d9cf"
_MOST, _LABELS = 60, 8


class Bar(NamedTuple):
    """What something cost in dollars, and what it would have cost more at list price."""

    label: str
    cost_usd: float
    saved_usd: float


def check_picture(path: str | os.PathLike[str]) -> Path:
    """Make sure that a picture can be drawn to `path`.

    Raises:
        OutputError: The suffix is unknown, or there is no such folder.
        PipelineError: Matplotlib is not installed.
    """
    target = Path(path).expanduser().absolute()
    if target.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"Cannot draw {path}: its suffix must be one of {', '.join(_SUFFIXES)}.")
    if not target.parent.is_dir():
        raise OutputError(f"There is no folder {target.parent} to draw {target.name} in. Create it first.")
    check_plotting()
    return target


def draw_bars(path: str | os.PathLike[str], charts: Mapping[str, Sequence[Bar]], *, upright: bool) -> None:
    """Draw paid and saved dollars, a chart under each title; of each the last 60 bars, or the first 60 if they lie.

    Raises:
        OutputError: As `check_picture`.
        PipelineError: As `check_picture`.
    """
    target = check_picture(path)
    from matplotlib.figure import Figure  # noqa: PLC0415  only who draws needs it

    shown = {title: bars[-_MOST:] if upright else bars[:_MOST][::-1] for title, bars in charts.items()}
    heights = [3.6 if upright else 1.2 + 0.3 * len(bars) for bars in shown.values()]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    every = figure.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, bars) in zip(every, shown.items(), strict=True):
        _draw(axes, bars, upright=upright)
        axes.set_title(title, loc="left", fontsize=11)
    with replacing(target) as temporary:
        figure.savefig(temporary, format=target.suffix[1:].lower(), dpi=150)


def _draw(axes: "Axes", bars: Sequence[Bar], *, upright: bool) -> None:
    places, paid, saved = range(len(bars)), [bar.cost_usd for bar in bars], [bar.saved_usd for bar in bars]
    if upright:
        axes.bar(places, paid, color=_PAID, label="paid")
        axes.bar(places, saved, bottom=paid, color=_SAVED, label="saved: list price less what was paid")
    else:
        axes.barh(places, paid, color=_PAID, label="paid")
        axes.barh(places, saved, left=paid, color=_SAVED, label="saved: list price less what was paid")
    step = -(-len(bars) // _LABELS) if upright else 1
    names, amounts = (axes.xaxis, axes.yaxis) if upright else (axes.yaxis, axes.xaxis)
    names.set_ticks(places[::step], [bar.label for bar in bars][::step])
    amounts.set_major_formatter(lambda amount, _place: usd(amount) or "$0")
    amounts.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if upright:
        axes.margins(y=0.16)
    else:
        axes.margins(x=0.16)
    axes.legend(frameon=False, fontsize=9)
