"""Figures of the singular vectors: NF per layer (figs. 3b, 9), corners (figs. 3a, 10-14).

Axis legend: `L` layers, `C` corner.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svdjax.report import style
from svdjax.report.panels import Panel

_CORNERS = (
    ("sim_u", "|Q1| = sim U", "magma", 0.0),
    ("sim_v", "|Q2| = sim V", "magma", 0.0),
    ("difference", "|sim U − sim V|", "magma", 0.0),
    ("i_orth", "I_orth = Q1ᵀ Q2", "RdBu_r", -1.0),
)

_CLUSTER = "#d97706"
"""Colour of the edges that mark rows and columns of clustered singular values."""


def has_clusters(panels: Sequence[Panel]) -> bool:
    """Whether `corners` or `orthogonality` mark anything: first and last layers, within corners."""
    return any(
        side[[0, -1], : panel.stack("i_orth").shape[-1]].any()
        for panel in panels
        for side in panel.clustered
    )


def nf(panels: Sequence[Panel]) -> Figure:
    """NF of every layer and projection: left as in the paper, right as a share of unrelated.

    Open markers: NF on the common rank, where NF is not defined.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    absolute, relative = figure.subplots(1, 2)
    labels = max((panel.layers for panel in panels), key=len)
    if any(panel.layers != labels[: len(panel.layers)] for panel in panels):
        labels = tuple(map(str, range(len(labels))))
    shares = []
    for i, panel in enumerate(panels):
        colour, marker = style.COLOURS[i % 12], style.MARKERS[i % 12]
        values = panel.by_layer("nf")
        defined = np.isfinite(values)
        values = np.where(defined, values, panel.by_layer("nf_rank"))
        shares.append(values / panel.nf_unrelated)
        for ax, y in ((absolute, values), (relative, shares[-1])):
            name = style.label(panel.name)
            ax.plot(y, color=colour, marker=marker, markersize=4, label=name)
            ax.plot(np.where(defined, np.nan, y), ls="", marker=marker, mfc="white", color=colour)
    if not np.isfinite(np.concatenate(shares)).any():
        for ax in (absolute, relative):
            style.note(ax, "not defined for any matrix")
    _unrelated_levels(absolute, panels)
    style.reference_line(relative, 1.0)
    relative.text(
        *(1.01, 1.0, "unrelated"),
        transform=relative.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
    )
    absolute.set_title("NF, with the level of unrelated matrices (dashed)")
    absolute.set_ylabel("NF")
    absolute.set_ylim(bottom=0)
    relative.set_title("NF / NF unrelated")
    style.error_scale(relative, np.concatenate([*shares, [1.0]]), percent=True)
    for ax in (absolute, relative):
        style.layer_axis(ax, labels, room=44)
        ax.grid(axis="y")
    relative.set_ylim(top=max(1.3, 1.15 * np.nanmax([1.0, *np.concatenate(shares)])))
    handles, names = absolute.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=style.columns(names))
    return figure


def corners(panel: Panel) -> Figure:
    """Leading corner of sim_U, sim_V, their difference and I_orth, first and last layer."""
    layers = sorted({0, panel.matrices - 1})
    figure = Figure(figsize=(10.4, 2.4 * len(layers) + 0.5), layout="constrained")
    grid = figure.subplots(len(layers), 4, squeeze=False)
    stacks = {name: panel.stack(name) for name in ("sim_u", "sim_v", "i_orth")}
    stacks["difference"] = np.abs(np.abs(stacks["sim_u"]) - np.abs(stacks["sim_v"]))
    images = {}
    for row, layer in enumerate(layers):
        for column, (key, title, cmap, low) in enumerate(_CORNERS):
            ax = grid[row, column]
            value = stacks[key][layer]
            image = ax.imshow(
                np.abs(value) if low == 0 else value,
                cmap=style.colour_map(cmap, bad="#9ca3af"),
                vmin=low,
                vmax=1,
                interpolation="nearest",
            )
            _corner_ticks(ax, value.shape[-1])
            # Rows of I_orth = Q1ᵀ Q2 belong to post, as its columns do.
            sides = panel.clustered[1 if key == "i_orth" else 0], panel.clustered[1]
            _mark_clusters(ax, *(side[layer, : value.shape[-1]] for side in sides))
            if row == 0:
                ax.set_title(title)
            if column == 0:
                ax.set_ylabel(f"{style.label(panel.words(layer), 24)}\nbase index")
            if row == len(layers) - 1:
                ax.set_xlabel("post index")
            images[column] = image
    for columns in ((0, 1, 2), (3,)):
        beside = [grid[row, column] for row in range(len(layers)) for column in columns]
        figure.colorbar(images[columns[-1]], ax=beside, shrink=0.8, pad=0.015, aspect=26)
    figure.suptitle(style.label(panel.name, 60), fontsize=10)
    return figure


def orthogonality(panels: Sequence[Panel]) -> Figure:
    """Corner of I_orth of every projection, first and last layer (figs. 20c to 25c).

    Of more than 7 projections the first layer alone.
    """
    if len(panels) > 7:
        columns = min(6, -(-len(panels) // 2))
        figure, axes = style.grid(len(panels), width=1.9, height=2.0, columns=columns)
        cells = [(panel, 0, style.label(panel.name, 22) + "\n") for panel in panels]
    else:
        cells = [(panel, 0, style.label(panel.name, 20) + "\n") for panel in panels]
        if any(panel.matrices > 1 for panel in panels):
            cells += [(panel, panel.matrices - 1, "") for panel in panels]
        rows = len(cells) // len(panels)
        size = (1.75 * len(panels) + 0.9, 1.95 * rows + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        axes = list(figure.subplots(rows, len(panels), squeeze=False).flat)
    image = None
    for ax, (panel, layer, name) in zip(axes, cells, strict=True):
        value, clustered = panel.stack("i_orth")[layer], panel.clustered[1][layer]
        cmap = style.colour_map("RdBu_r", bad="#9ca3af")
        image = ax.imshow(value, cmap=cmap, vmin=-1, vmax=1, interpolation="nearest")
        _corner_ticks(ax, value.shape[-1])
        _mark_clusters(ax, clustered[: value.shape[-1]], clustered[: value.shape[-1]])
        ax.set_title(f"{name}{style.label(panel.words(layer), 24)}")
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=28)  # type: ignore[arg-type]
    return figure


def _mark_clusters(ax: Axes, rows: np.ndarray, columns: np.ndarray) -> None:
    """Draws a coloured edge along the rows and columns that are True, bool [C] each."""
    limits = ax.get_xlim(), ax.get_ylim()
    edge = {"colors": _CLUSTER, "linewidth": 3.0, "clip_on": False, "zorder": 5}
    at = np.flatnonzero(rows)
    if at.size:
        ax.vlines(np.full(at.shape, -0.5), at - 0.5, at + 0.5, **edge)
    at = np.flatnonzero(columns)
    if at.size:
        ax.hlines(np.full(at.shape, len(rows) - 0.5), at - 0.5, at + 0.5, **edge)
    ax.set(xlim=limits[0], ylim=limits[1])


def _corner_ticks(ax: Axes, size: int) -> None:
    ticks = sorted({0, (size - 1) // 2, size - 1})
    ax.set_xticks(ticks)
    ax.set_yticks(ticks)


def _unrelated_levels(ax: Axes, panels: Sequence[Panel]) -> None:
    """Draws a dashed line for every distinct level, named on the right where there is room."""
    levels: dict[float, list[int]] = {}
    for i, panel in enumerate(panels):
        levels.setdefault(panel.nf_unrelated, []).append(i)
    for level, members in levels.items():
        colour = style.COLOURS[members[0] % 12] if len(members) == 1 else "#374151"
        style.reference_line(ax, level, color=colour)
    if len(levels) > 4:
        return
    room, previous = 0.045 * max(levels), -np.inf
    for level in sorted(levels):
        previous = max(level, previous + room)
        names = [panels[i].name.removesuffix("_proj") for i in levels[level]]
        text = style.label(", ".join(names), 99)
        if len(text) > 24:
            text = style.label(names[0], 20) + (f" and {len(names) - 1} more" if names[1:] else "")
        ax.text(1.01, previous, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7.5)
