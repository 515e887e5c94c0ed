"""Figures of eq. 8 as a fit, and of the residual rotations of eq. 13. Axis: `L` layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from svdjax.report import style
from svdjax.report.panels import Panel
from svdjax.spectra.tables import FIT_NAMES, RESIDUALS


def fits(panels: Sequence[Panel]) -> Figure:
    """Relative error of eq. 8 per layer for every choice of Q."""
    lines = {f"fit_{name}_error": text for name, text in FIT_NAMES.items()}
    return _per_layer(panels, lines, "relative error of eq. 8")


def residuals(panels: Sequence[Panel]) -> Figure:
    """Distance of the rotations of the two sides from a common one, per layer (eq. 13).

    Layers without a common rotation that is unique have no residuals, and are not drawn.
    """
    return _per_layer(panels, RESIDUALS, "residual rotation")


def has_residuals(panels: Sequence[Panel]) -> bool:
    """Whether any layer has a common rotation; the asymmetry alone is NF once more."""
    return any(np.isfinite(panel.stack("residual_q1")).any() for panel in panels)


def _per_layer(panels: Sequence[Panel], lines: dict[str, str], title: str) -> Figure:
    figure, axes = style.grid(len(panels))
    stacks = [{field: panel.stack(field) for field in lines} for panel in panels]
    # The legend names only what was computed.
    computed = {name for values in stacks for name, y in values.items() if np.isfinite(y).any()}
    for ax, panel, values in zip(axes, panels, stacks, strict=True):
        size = 3.2 if len(panel.layers) > 1 else 6
        for i, (field, text) in enumerate(lines.items()):
            if field in computed:
                marker, colour = style.MARKERS[i], style.COLOURS[i]
                ax.plot(values[field], color=colour, marker=marker, markersize=size, label=text)
        stacked = np.concatenate(list(values.values()))
        if not np.isfinite(stacked).any():
            style.note(ax, "undefined in every layer")
        style.error_scale(ax, stacked)
        ax.set_title(style.label(panel.name))
        style.layer_axis(ax, panel.layers)
        ax.grid(axis="y")
    figure.supylabel(title, fontsize=8.5)
    handles, names = axes[0].get_legend_handles_labels()
    if handles:
        columns = min(5, 2 * len(panels) + 1)
        figure.legend(handles, names, loc="outside lower center", ncols=columns)
    return figure
