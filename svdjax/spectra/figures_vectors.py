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
    """Whether `corners` or `orthogonality` mark anything: in first and last layers, any corner."""
    for panel in panels:
        size = panel.stack("i_orth").shape[-1]
        if any(side[[0, -1], :size].any() for side in panel.clustered):
            return True
    return False


def nf(panels: Sequence[Panel]) -> Figure:
    """NF of every layer and projection; left as the paper draws it, right as share of unrelated."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    absolute, relative = figure.subplots(1, 2)
    labels = max((panel.layers for panel in panels), key=len)
    if not _same_layers(panels):
        labels = tuple(str(i) for i in range(len(labels)))
    shares = []
    for i, panel in enumerate(panels):
        colour, marker = style.COLOURS[i % 12], style.MARKERS[i % 12]
        values, filled = _nf_values(panel)
        shares.append(values / panel.nf_unrelated)
        for ax, y in ((absolute, values), (relative, shares[-1])):
            name = style.label(panel.name)
            ax.plot(y, color=colour, marker=marker, markersize=4, label=name)
            ax.plot(np.where(filled, np.nan, y), ls="", marker=marker, mfc="white", color=colour)
    if not np.isfinite(np.concatenate(shares)).any():
        style.note(absolute, "not defined for any matrix")
        style.note(relative, "not defined for any matrix")
    _unrelated_levels(absolute, panels)
    relative.axhline(1.0, color="#111827", linestyle=(0, (4, 3)), linewidth=1)
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
    """The leading corner of sim_U, sim_V, their difference and I_orth, first and last layer."""
    chosen = sorted({0, len(panel.layers) - 1})
    figure = Figure(figsize=(10.4, 2.4 * len(chosen) + 0.5), layout="constrained")
    grid = figure.subplots(len(chosen), 4, squeeze=False)
    stacks = {name: panel.stack(name) for name in ("sim_u", "sim_v", "i_orth")}
    stacks["difference"] = np.abs(np.abs(stacks["sim_u"]) - np.abs(stacks["sim_v"]))
    images = {}
    for row, layer in enumerate(chosen):
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
                ax.set_ylabel(f"layer {style.label(panel.layers[layer], 10)}\nbase index")
            if row == len(chosen) - 1:
                ax.set_xlabel("post index")
            images[column] = image
    for columns in ((0, 1, 2), (3,)):
        beside = [grid[row, column] for row in range(len(chosen)) for column in columns]
        figure.colorbar(images[columns[-1]], ax=beside, shrink=0.8, pad=0.015, aspect=26)
    figure.suptitle(style.label(panel.name, 60), fontsize=10)
    return figure


def orthogonality(panels: Sequence[Panel]) -> Figure:
    """Corner of I_orth of every projection, first and last layer (figs. 20c to 25c)."""
    deepest = max(len(panel.layers) for panel in panels)
    rows = 1 if deepest == 1 else 2
    columns = len(panels)
    if columns > 7:
        return _orthogonality_paged(panels)
    figure = Figure(figsize=(1.75 * columns + 0.9, 1.95 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    image = None
    for column, panel in enumerate(panels):
        stack = panel.stack("i_orth")
        for row in range(rows):
            layer = 0 if row == 0 else len(stack) - 1
            image = _draw_orthogonality(grid[row, column], stack[layer], panel.clustered[1][layer])
            name = style.label(panel.name, 20) + "\n" if row == 0 else ""
            grid[row, column].set_title(f"{name}layer {style.label(panel.layers[layer], 10)}")
    figure.colorbar(image, ax=list(grid.flat), shrink=0.8, aspect=28)  # type: ignore[arg-type]
    return figure


def _orthogonality_paged(panels: Sequence[Panel]) -> Figure:
    figure, axes = style.grid(
        len(panels), width=1.9, height=2.0, columns=min(6, -(-len(panels) // 2))
    )
    image = None
    for ax, panel in zip(axes, panels, strict=True):
        image = _draw_orthogonality(ax, panel.stack("i_orth")[0], panel.clustered[1][0])
        ax.set_title(f"{style.label(panel.name, 22)}\nlayer {style.label(panel.layers[0], 10)}")
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=28)  # type: ignore[arg-type]
    return figure


def _draw_orthogonality(ax: Axes, value: np.ndarray, clustered: np.ndarray):
    cmap = style.colour_map("RdBu_r", bad="#9ca3af")
    image = ax.imshow(value, cmap=cmap, vmin=-1, vmax=1, interpolation="nearest")
    _corner_ticks(ax, value.shape[-1])
    _mark_clusters(ax, clustered[: value.shape[-1]], clustered[: value.shape[-1]])
    return image


def _mark_clusters(ax: Axes, rows: np.ndarray, columns: np.ndarray) -> None:
    """A coloured edge along the rows and columns that are True, bool [C] each."""
    limits = ax.get_xlim(), ax.get_ylim()
    how = {"colors": _CLUSTER, "linewidth": 3.0, "clip_on": False, "zorder": 5}
    at = np.flatnonzero(rows)
    if at.size:
        ax.vlines(np.full(at.shape, -0.5), at - 0.5, at + 0.5, **how)
    at = np.flatnonzero(columns)
    if at.size:
        ax.hlines(np.full(at.shape, len(rows) - 0.5), at - 0.5, at + 0.5, **how)
    ax.set(xlim=limits[0], ylim=limits[1])


def _corner_ticks(ax: Axes, size: int) -> None:
    ticks = sorted({0, (size - 1) // 2, size - 1})
    ax.set_xticks(ticks)
    ax.set_yticks(ticks)


def _nf_values(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """NF, or NF on the common rank where it is not defined; and which ones are NF itself."""
    values = panel.stack("nf")
    defined = np.isfinite(values)
    return np.where(defined, values, panel.stack("nf_rank")), defined


def _unrelated_levels(ax: Axes, panels: Sequence[Panel]) -> None:
    """A dashed line for every distinct level, named on the right where there is room."""
    levels: dict[float, list[int]] = {}
    for i, panel in enumerate(panels):
        levels.setdefault(panel.nf_unrelated, []).append(i)
    for level, members in levels.items():
        colour = style.COLOURS[members[0] % 12] if len(members) == 1 else "#374151"
        ax.axhline(level, color=colour, linestyle=(0, (4, 3)), linewidth=1)
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


def _same_layers(panels: Sequence[Panel]) -> bool:
    longest = max((panel.layers for panel in panels), key=len)
    return all(panel.layers == longest[: len(panel.layers)] for panel in panels)
