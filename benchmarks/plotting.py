"""Draw CPU and memory over the number of rows: its arguments are RECORD PNG."""

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .contestants import CONTESTANTS, is_peer
from .records import Record

PANELS = (("cpu_seconds", "CPU seconds", "log"), ("peak_mb", "peak memory, MB", "log"))
COLORS = {"ours": "#b4472e", "loop": "#2f5d8a", "floor": "#5c8a4d"}
PEER_COLORS = ("#8a8a8a", "#c9a227", "#7b6fa0", "#5f9ea0", "#d48ab5", "#5a5a5a")
LABELS = {"ours": "claude-pipeline", "loop": "documentation's loop", "floor": "hand-written floor"}


def style(who: str) -> dict[str, Any]:
    """Choose how a contestant is drawn: the peers thinner."""
    if not is_peer(who):
        return {"color": COLORS[who], "linewidth": 2.4, "label": LABELS[who], "zorder": 3}
    place = [*CONTESTANTS].index(who) - len(COLORS)
    return {"color": PEER_COLORS[place], "linewidth": 1.2, "label": who, "zorder": 2}


def draw(record: Record) -> Figure:
    """Draw the medians of the main work."""
    of = record.medians()
    figure = Figure(figsize=(10, 4.8), layout="constrained", facecolor="white")
    for axes, (name, title, scale) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for who in CONTESTANTS:
            points = sorted(
                (rows, getattr(run, name)) for (work, by, rows), run in of.items() if (work, by) == ("text", who)
            )
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, **style(who))
        axes.set(xscale="log", yscale=scale, xlabel="rows", title=title)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.grid(visible=True, which="major", color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    place = record.machine
    words = f"{place['cores']} cores, Python {place['python']}, {record.date}; the server's process is not counted"
    figure.supxlabel(words, fontsize=9, color="#555555")
    return figure


def main() -> None:
    """Draw a record."""
    source, out = map(Path, sys.argv[1:])
    mpl.use("agg")
    draw(Record.read(source)).savefig(out, dpi=110)


if __name__ == "__main__":
    main()
