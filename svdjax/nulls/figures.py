"""Figures of the null models: measured curves before the band of random signs of the change.

Axis legend: `L` layers, `R` rank, `D` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from svdjax.nulls.plots import rows_of
from svdjax.report import style
from svdjax.report.panels import Panel
from svdjax.spectral import statistics

if TYPE_CHECKING:
    from svdjax.nulls.results import ProjectionNulls

Nulls = Mapping[str, "ProjectionNulls"]
_BAND, _LINE = "#e8b49a", style.POST
_DASHES = (0, (4, 3))


def nf(panels: Sequence[Panel], nulls: Nulls) -> Figure:
    """NF per layer, before the band of the draws and the expectation by formula."""
    figure, axes = style.grid(len(panels))
    for ax, panel in zip(axes, panels, strict=True):
        measured, formula = rows_of(panel, nulls, "nf"), rows_of(panel, nulls, "nf_all_orders")
        draws = rows_of(panel, nulls, "nf_signs")
        chosen = np.flatnonzero(rows_of(panel, nulls, "sampled") > 0)
        mean = np.zeros(0)
        if draws.size and len(chosen):
            # Layer by layer: nothing is drawn where nothing was sampled.
            mean, std = draws[chosen].mean(axis=1), draws[chosen].std(axis=1)
            ax.bar(chosen, 4 * std, bottom=mean - 2 * std, width=0.96, color=_BAND, alpha=0.6)
            ax.hlines(mean, chosen - 0.48, chosen + 0.48, color=_LINE, linewidth=1)
        size = 3.2 if len(panel.layers) > 1 else 6
        ax.plot(formula, color=style.MUTED, linestyle=_DASHES, marker="_", linewidth=1)
        ax.plot(measured, color=style.BASE, marker="o", markersize=size)
        if not np.isfinite(measured).any():
            style.note(ax, "NF is undefined in every layer")
        values = np.concatenate([measured, formula, mean])
        style.error_scale(ax, values[np.isfinite(values)])
        ax.set_title(style.label(panel.name))
        style.layer_axis(ax, panel.layers)
        ax.grid(axis="y")
    figure.supylabel("NF", fontsize=8.5)
    _legend(figure, "random directions, by formula")
    return figure


def svsm(panels: Sequence[Panel], nulls: Nulls) -> Figure:
    """Scaling of every singular value in one sampled layer, before the band of the draws."""
    figure, axes = style.grid(len(panels))
    for ax, panel in zip(axes, panels, strict=True):
        chosen = np.flatnonzero(rows_of(panel, nulls, "sampled") > 0)
        layer = chosen[len(chosen) // 2] if len(chosen) else (len(panel.layers) - 1) // 2
        measured = panel.stack("svsm")[layer]
        mean = rows_of(panel, nulls, "svsm_mean_signs")[layer]
        std = rows_of(panel, nulls, "svsm_std_signs")[layer]
        if np.isfinite(mean).any():
            _band(ax, np.arange(len(mean), dtype=float), mean, std)
        marker = "o" if len(measured) == 1 else ""
        ax.plot(measured, color=style.BASE, linewidth=1.2, marker=marker)
        if not np.isfinite(measured).any():
            style.note(ax, "undefined")
        elif not len(chosen):
            style.note(ax, "not sampled")
        _zoom(ax, measured, mean, std)
        ax.axhline(1.0, color=style.MUTED, linewidth=0.8, linestyle=_DASHES, zorder=0)
        ax.set_title(f"{style.label(panel.name, 24)}, layer {style.label(panel.layers[layer], 8)}")
        ax.set_xlabel("index j")
    figure.supylabel("σ post / σ base", fontsize=8.5)
    _legend(figure, "no scaling")
    return figure


def _band(ax: Axes, x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    if len(x) > 1:
        ax.fill_between(x, mean - 2 * std, mean + 2 * std, color=_BAND, alpha=0.6, linewidth=0)
        ax.plot(x, mean, color=_LINE, linewidth=1)
    else:
        ax.errorbar(x, mean, yerr=2 * std, color=_LINE, marker="_", capsize=4)


def _zoom(ax: Axes, measured: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    """Limits that show the top 90 %: the last few ratios may be far off."""
    top = statistics.top_count(len(measured))
    values = np.concatenate([part[:top] for part in (measured, mean - 2 * std, mean + 2 * std)])
    values = np.append(values[np.isfinite(values)], 1.0)
    low, high = float(values.min()), float(values.max())
    room = 0.06 * (high - low) or 0.05
    ax.set_ylim(low - room, high + room)
    if len(measured) > 1:
        ax.axvline(top - 0.5, color="#111827", linewidth=0.7, linestyle=_DASHES)


def _legend(figure: Figure, dashed: str) -> None:
    handles = [
        Line2D([], [], color=style.BASE, marker="o", markersize=3.2, label="measured"),
        Patch(facecolor=_BAND, label="random signs of the same change: mean ± 2 std"),
        Line2D([], [], color=style.MUTED, linestyle=_DASHES, linewidth=1, label=dashed),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
