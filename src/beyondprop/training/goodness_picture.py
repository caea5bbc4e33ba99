"""Goodness of fit of point processes as a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from beyondprop.training.curves import png

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3", "#937860", "#c44e52")
MOST_POINTS = 400


def draw_goodness(gaps: Mapping[str, np.ndarray], title: str) -> bytes:
    """Draw rescaled gaps beside the unit exponential distribution that they have under a true model.

    Args:
        gaps: By model, as `rescaled_gaps` gives them.
        title: Stands above.

    Returns:
        A PNG. On the left quantiles against those of the exponential; on the right how far the distribution function
        is off, with the 95 % band of the Kolmogorov-Smirnov test for the fewest gaps.
    """
    figure = Figure(figsize=(9.6, 4.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"Gaps on each model's own clock: {title}", fontsize=12, fontweight="bold")
    fewest = min(len(each) for each in gaps.values())
    band, longest = 1.358 / fewest**0.5, 0.0
    for colour, (name, each) in zip(COLOURS * len(gaps), gaps.items(), strict=False):
        ordered = np.sort(each)
        ranks = (np.arange(len(ordered)) + 0.5) / len(ordered)
        shown = np.unique(np.round(np.linspace(0, len(ordered) - 1, MOST_POINTS)).astype(int))
        far = np.unique(np.append(shown, np.arange(max(0, len(ordered) - 30), len(ordered))))
        left.plot(-np.log1p(-ranks[far]), ordered[far], ".", color=colour, markersize=4, label=name)
        right.plot(ranks[shown], -np.expm1(-ordered[shown]) - ranks[shown], color=colour, linewidth=1.6, label=name)
        longest = max(longest, float(-np.log1p(-ranks[-1])))
    left.plot([0, longest], [0, longest], color="#404040", linewidth=1.0, zorder=0)
    left.set(xlabel="unit exponential, quantiles", ylabel="rescaled gaps, quantiles", title="Quantiles")
    left.set_ylim(0, min(2 * longest, 1.05 * max(longest, *(float(each.max()) for each in gaps.values()))))
    right.axhspan(-band, band, color="#404040", alpha=0.12, linewidth=0, label="95 % band")
    right.axhline(0, color="#404040", linewidth=1.0, zorder=0)
    right.set(xlabel="share of the gaps", ylabel="distribution function, model less data", title="Kolmogorov-Smirnov")
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=len(names), loc="outside lower center")
    return png(figure, left, right)
