"""The figure of a search by masks: the real-valued masks of one level over its steps, and how many are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hiernas.report.svg import BLUE, INK, MUTED, axes, draw

HEIGHT = 280.0


def masks(level: str, record: Mapping[str, Any], width: float) -> str:
    """Masks by step, and how many of them are above the threshold, as inline SVG; "" where there are none."""
    values, steps = np.array(record["values"], dtype=float), [0, *record["steps"]]
    if not values.size:
        return ""
    values = np.concatenate([np.full((1, values.shape[1]), record["initial"]), values])
    kept = values > record["threshold"]
    of = record.get("of", values.shape[1])  # more than are drawn, where there are thousands
    above = np.array([of, *record["kept"]]) if "kept" in record else kept.sum(1)
    beside = width > 500
    height = HEIGHT if beside else 2 * HEIGHT

    def paint(figure: Figure) -> None:
        left = axes(figure, 66, 12, width * 0.4 + 10, 44) if beside else axes(figure, 66, 12, 12, HEIGHT + 44)
        right = axes(figure, 66 + width * 0.6, 12, 10, 44) if beside else axes(figure, 66, HEIGHT + 12, 12, 44)
        for line, stays in sorted(zip(values.T, kept[-1], strict=True), key=lambda pair: bool(pair[1])):
            left.plot(steps, line, color=BLUE if stays else MUTED, linewidth=0.8, alpha=0.6)
        left.axhline(record["threshold"], color=INK, linestyle=(0, (4, 3)), linewidth=1.1)
        left.set_ylabel("Mask")
        right.plot(steps, above, color=BLUE, drawstyle="steps-post")
        right.set_ylabel(f"Of {of} above the threshold")
        right.set_ylim(0, of * 1.03)
        for ax in (left, right):
            ax.set_xlabel("Step")
            ax.set_xlim(0, steps[-1])
            ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        right.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))

    first, last = int(above[0]), int(above[-1])
    alt = f"Masks of {level} over {steps[-1]} steps: {first} above the threshold at first, {last} at last."
    return draw(f"masks-{level}{width:.0f}", alt, width, height, paint)
