"""Figures of the singular values: SVSM heatmaps (figs. 2, 7), bands (fig. 8), spectra.

Axis legend: `L` layers, `R` rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from svdjax.report import style
from svdjax.report.panels import Panel
from svdjax.spectral import statistics

_UNDEFINED = "#f2c200"
_ROWS = 400


def heatmaps(panels: Sequence[Panel]) -> Figure:
    """SVSM of every projection: layers across, singular values downwards, one colour scale."""
    figure, axes = style.grid(len(panels), height=2.4)
    norm, extend = colour_scale(panels)
    image = None
    for ax, panel in zip(axes, panels, strict=True):
        image = draw_svsm(ax, panel, norm)
        ax.set_title(style.label(panel.name))
    for i, ax in enumerate(axes):
        if i == 0 or axes[i - 1].get_position().y0 > ax.get_position().y0:
            ax.set_ylabel("index j of σ")
    bar = figure.colorbar(image, ax=axes, extend=extend, shrink=0.85, aspect=32, pad=0.015)  # type: ignore[arg-type]
    bar.set_label("σ post / σ base")
    if any(np.isnan(panel.stack("svsm")).any() for panel in panels):
        patch = Patch(facecolor=_UNDEFINED, label="undefined: σ base is 0")
        figure.legend(handles=[patch], loc="outside lower center")
    return figure


def colour_scale(panels: Sequence[Panel]) -> tuple[TwoSlopeNorm, str]:
    """Colours of ratios, the same for all panels, and the ends at which the colour bar is open.

    White at 1, wide enough for 99 % of the top 90 % of all ratios.
    """
    stacks = [panel.stack("svsm") for panel in panels]
    counts = [max(1, statistics.top_count(stack.shape[-1])) for stack in stacks]
    ratios = _finite(stacks)
    top = _finite([stack[:, :count] for stack, count in zip(stacks, counts)])
    if not top.size:
        return TwoSlopeNorm(1.0, 0.9, 1.1), "neither"
    low, high = np.quantile(top, (0.005, 0.995))
    half = max(abs(1 - low), abs(high - 1), 0.02) * 1.4
    vmin, vmax = max(0.0, 1 - half), 1 + half
    below, above = bool(ratios.min() < vmin), bool(ratios.max() > vmax)
    extend = {(False, True): "max", (True, False): "min", (True, True): "both"}
    return TwoSlopeNorm(1.0, vmin, vmax), extend.get((below, above), "neither")


def draw_svsm(ax: Axes, panel: Panel, norm: TwoSlopeNorm, *, room: int = 28) -> AxesImage:
    """Draws a heatmap with its 90 % line; returns the image."""
    ratios = panel.by_layer("svsm")
    rank = ratios.shape[-1]
    cmap = style.colour_map("RdBu_r", bad=_UNDEFINED)
    image = ax.imshow(
        _thinned(ratios).T,
        norm=norm,
        cmap=cmap,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, len(panel.layers) - 0.5, rank - 0.5, -0.5),
    )
    if rank > 1:
        style.reference_line(ax, statistics.top_count(rank) - 0.5, linewidth=0.7)
    style.layer_axis(ax, panel.layers, room=room)
    ax.set_yticks(sorted({0, rank // 2, rank - 1}))
    return image


def bands(panels: Sequence[Panel]) -> Figure:
    """Mean and std of the top 90 % of the scaling factors per layer (fig. 8)."""
    figure, axes = style.grid(len(panels), sharey=True)
    for ax, panel in zip(axes, panels, strict=True):
        draw_band(ax, panel, style.BASE)
        mean, std = panel.svsm.alpha_mean, panel.svsm.alpha_std
        ax.set_title(f"{style.label(panel.name)}\n{mean:.4f} ± {std:.4f}")
        style.layer_axis(ax, panel.layers)
        finish_bands(ax)
    figure.supylabel("σ post / σ base, top 90 %", fontsize=8.5)
    return figure


def draw_band(ax: Axes, panel: Panel, colour: str, text: str | None = None) -> None:
    """Draws the band of one pair in a panel."""
    mean, std = np.asarray(panel.svsm.layer_mean), np.asarray(panel.svsm.layer_std)
    x = np.arange(len(mean))
    if not np.isfinite(mean).any():
        style.note(ax, "undefined in every layer")
        return
    if len(mean) > 1:
        ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.22, linewidth=0)
        ax.plot(x, mean, color=colour, marker=".", markersize=4, label=text)
    else:
        ax.errorbar(x, mean, yerr=std, color=colour, marker="o", capsize=4, label=text)


def finish_bands(ax: Axes) -> None:
    """Draws the line of no scaling, and a light grid."""
    style.reference_line(ax, 1.0, color=style.MUTED, linewidth=0.8, zorder=0)
    ax.grid(axis="y")
    ax.set_axisbelow(True)


def spectra(panels: Sequence[Panel]) -> Figure:
    """Singular values of base and post for the first, middle and last layer."""
    figure, axes = style.grid(len(panels))
    shades = ("#1f5a92", "#2f8f5b", "#c4511b")
    for ax, panel in zip(axes, panels, strict=True):
        base, post = panel.by_layer("sigma_base"), panel.by_layer("sigma_post")
        layers = sorted({0, (len(base) - 1) // 2, len(base) - 1})
        marker = "o" if base.shape[-1] == 1 else ""
        for colour, layer in zip(shades, layers, strict=False):
            for sigma, dashes in ((base, "-"), (post, (0, (3, 2)))):
                y = np.where(sigma[layer] > 0, sigma[layer], np.nan)
                ax.plot(y, color=colour, linestyle=dashes, linewidth=1.2, marker=marker)
        values = np.concatenate([base[layers], post[layers]])
        if (values > 0).any():
            style.log_axis(ax, values[values > 0])
        else:
            style.note(ax, "all singular values are 0")
        ax.set_title(style.label(panel.name))
        ax.set_xlabel("index j")
        ax.set_xmargin(0.02)
    names = {1: (), 2: ("first layer", "last layer")}.get(
        max(len(panel.layers) for panel in panels), ("first layer", "middle layer", "last layer")
    )
    keys: list[tuple[str, Any, str]] = [(shade, "-", name) for shade, name in zip(shades, names)]
    keys += [("#374151", "-", "σ base"), ("#374151", (0, (3, 2)), "σ post")]
    handles = [Line2D([], [], color=colour, ls=ls, label=text) for colour, ls, text in keys]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return figure


def _finite(stacks: Sequence[np.ndarray]) -> np.ndarray:
    values = np.concatenate([stack.ravel() for stack in stacks])
    return values[np.isfinite(values)]


def _thinned(ratios: np.ndarray) -> np.ndarray:
    """At most `_ROWS` singular values: means of neighbours, NaN where any of them is."""
    rank = ratios.shape[-1]
    if rank <= _ROWS:
        return ratios
    starts = np.unique(np.linspace(0, rank, _ROWS, endpoint=False).astype(int))
    sizes = np.diff(np.append(starts, rank))
    return np.add.reduceat(ratios, starts, axis=-1) / sizes
