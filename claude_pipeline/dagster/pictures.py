"""A small picture for the asset page, which shows Markdown inline only below 1,000 characters."""

from base64 import b64encode
from itertools import pairwise

import numpy as np
import numpy.typing as npt

_BARS, _WIDTH, _HEIGHT, _TEXT = 16, 240, 48, 12


def histogram(values: npt.NDArray[np.int64], unit: str) -> str | None:
    """Draw how numbers are distributed, as Markdown with an SVG in it; None when there are none."""
    if not len(values):
        return None
    least, most = int(values.min()), int(values.max())
    edges = np.linspace(least, most + 1, min(_BARS, most - least + 1) + 1)
    counts, _ = np.histogram(values, edges)
    median = int(np.median(values))
    words = f"{len(values):,} answers: {least:,} to {most:,} {unit}, half of them at most {median:,}"
    return f"![{words}](data:image/svg+xml;base64,{b64encode(_svg(counts, least, most, unit).encode()).decode()})"


def _svg(counts: npt.NDArray[np.int64], least: int, most: int, unit: str) -> str:
    places = [round(place) for place in np.linspace(0, _WIDTH, len(counts) + 1)]
    heights = [int(np.ceil(_HEIGHT * count / counts.max())) for count in counts]
    bars = "".join(
        f"M{start} {_HEIGHT}v-{height}H{end - 1}v{height}"
        for (start, end), height in zip(pairwise(places), heights, strict=True)
        if height
    )
    under = _HEIGHT + _TEXT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{under + 3}" font-size="11">'
        f'<path fill="#d97757" d="{bars}"/><g font-family="sans-serif" fill="#888"><text y="{under}">{least:,}</text>'
        f'<text x="{_WIDTH}" y="{under}" text-anchor="end">{most:,} {unit}</text></g></svg>'
    )
