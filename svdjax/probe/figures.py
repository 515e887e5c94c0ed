"""Figures of attention entropy (figs. 4b, 15-18), CKA (figs. 6, 19) and attention maps (fig. 4a).

Every mapping is from the name of a model to its array, drawn in its order.

Axes: `L` blocks, `H` heads, `T` time.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from svdjax.report import style

Named = Mapping[str, np.ndarray]

# More bands than this cover each other.
_MOST_BANDS = 3
_FIRST, _OTHERS = style.COLOURS[-1], style.COLOURS[:-1]
_MARKERS = style.MARKERS[1:]
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.2)))
_UNDEFINED = {"facecolor": "#e5e7eb", "edgecolor": "#9ca3af", "hatch": "////", "linewidth": 0}
# Weights below it are hardly more than none, and would take most of a logarithmic scale.
_LEAST_WEIGHT = 1e-4


def entropy_curves(
    entropies: Named,
    *,
    title: str = "",
    blocks: Sequence[int] | None = None,
    first: str | None = None,
) -> Figure:
    """Entropy per block: mean over the heads, with a band from the least to the greatest.

    With more than a few models only `first` has its band.

    Args:
        entropies: [L, H] in nats; a block of which any head is NaN is left out.
        title: Title of the axes.
        blocks: Numbers of the `L` blocks; 0, 1, ... if not given.
        first: The model that the others are compared with, drawn strongest.
    """
    entropies = _finite_or_nan(entropies)
    columns = -(-len(entropies) // 18) if len(entropies) > 4 else 0
    figure = Figure(figsize=(6.6 + 2.3 * columns, 3.6), layout="constrained")
    ax = figure.add_subplot()
    banded = len(entropies) <= _MOST_BANDS
    others = [name for name in entropies if name != first]
    deepest = max(len(values) for values in entropies.values())
    numbers = np.arange(deepest) if blocks is None else np.asarray(blocks)
    handles = []
    for i, (name, values) in enumerate(entropies.items()):
        x = numbers[: len(values)] if blocks is None else numbers
        if deepest == 1:
            # One block is one column of markers, which would hide each other.
            x = x + (i + 0.5) / len(entropies) - 0.5
        place = -1 if name == first else others.index(name)
        handles.append(_curve(ax, x, values, place, banded=banded or name == first))
    _number_axis(ax, numbers)
    undefined = {name for name, values in entropies.items() if np.isnan(values.mean(axis=1)).all()}
    if len(undefined) == len(entropies):
        style.note(ax, "not finite in any block")
        ax.set_yticks([])
    else:
        ax.set_ylim(bottom=max(0.0, ax.get_ylim()[0]))
    ax.set_xlabel("block")
    ax.set_ylabel("attention entropy, nats\nline: mean of the heads, band: their range")
    ax.set_title(style.label(title, 90))
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    names = [style.label(k, 28) + " (not finite)" * (k in undefined) for k in entropies]
    if columns:
        figure.legend(handles, names, loc="outside right upper", ncols=columns)
    else:
        figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
    return figure


def entropy_heatmaps(entropies: Named, *, blocks: Sequence[int] | None = None) -> Figure:
    """Entropy of every head, [L, H] in nats: heads upwards, blocks across, one colour scale."""
    entropies = _finite_or_nan(entropies)
    figure, axes = style.grid(len(entropies), columns=_columns(len(entropies)), height=2.1)
    norm = Normalize(0.0, _largest(entropies))
    for ax, (name, values) in zip(axes, entropies.items(), strict=True):
        _heatmap(ax, values.T, norm, aspect="auto")
        numbers = range(len(values)) if blocks is None else blocks
        style.layer_axis(ax, [str(number) for number in numbers], room=24)
        _ticks(ax, y=values.shape[1])
        ax.set_title(_wrapped(name))
    _finish(figure, axes, entropies, norm, ("block", "head", "attention entropy, nats"))
    return figure


def cka_heatmaps(cka: Named, *, first: str, label: str = "CKA") -> Figure:
    """CKA [Lf, Lm] of the blocks of `first` (upwards) with those of every model (across).

    Args:
        cka: The values.
        first: The model that the others are compared with.
        label: Label of the colours.
    """
    cka = _finite_or_nan(cka)
    figure, axes = _squares(len(cka), 2.55, 2.5, _columns(len(cka)))
    norm = Normalize(0.0, 1.0)
    for ax, (name, values) in zip(axes, cka.items(), strict=True):
        # Square cells would make a strip of a model of quite another depth.
        alike = 0.5 <= values.shape[0] / values.shape[1] <= 2
        _heatmap(ax, values, norm, aspect="equal" if alike else "auto")
        _ticks(ax, x=values.shape[1], y=values.shape[0])
        ax.set_title(_wrapped(name, 22))
    labels = ("block of the model above", _wrapped(f"block of {first}", 18), label)
    _finish(figure, axes, cka, norm, labels)
    return figure


def attention_maps(maps: Named, *, log: bool = True) -> Figure:
    """Attention weights [T, T], from every position (downwards) to itself and those before it.

    Args:
        maps: Rows are the positions that attend; only the lower triangle is drawn.
        log: A logarithmic colour scale from 0.0001; else a linear one from 0.
    """
    lower = _lower_triangles(maps)
    most = _largest(lower, above=_LEAST_WEIGHT)
    # Clipped, so that a weight of 0 has the lowest colour and not none.
    norm = LogNorm(_LEAST_WEIGHT, most, clip=True) if log else Normalize(0.0, most)
    return _triangle_heatmaps(lower, norm, "attention weight")


def attention_differences(changes: Named) -> Figure:
    """Differences of attention weights [T, T] from `differences` (fig. 4a, panel 3).

    Args:
        changes: Rows are the positions that attend; only the lower triangle is drawn.
    """
    lower = _lower_triangles(changes)
    most = _largest({name: np.abs(values) for name, values in lower.items()})
    label = "difference of attention weight"
    return _triangle_heatmaps(lower, Normalize(-most, most), label, colours="RdBu_r")


def _lower_triangles(maps: Named) -> dict[str, np.ndarray]:
    return {
        name: np.where(np.tri(len(values), dtype=bool), values, np.nan)
        for name, values in _finite_or_nan(maps).items()
    }


def _triangle_heatmaps(
    lower: Named, norm: Normalize, label: str, *, colours: str = "viridis"
) -> Figure:
    figure, axes = _squares(len(lower), 3.2, 2.9, 3)
    for ax, (name, values) in zip(axes, lower.items(), strict=True):
        _heatmap(ax, values, norm, aspect="equal", origin="upper", triangle=True, colours=colours)
        _ticks(ax, x=len(values), y=len(values))
        ax.set_title(_wrapped(name))
    drawn = {name: values[np.tri(len(values), dtype=bool)] for name, values in lower.items()}
    _finish(figure, axes, drawn, norm, ("attends to position", "position", label))
    return figure


def _largest(drawn: Named, *, above: float = 0.0) -> float:
    """The largest finite value, for the end of a colour scale; 1 where none is above a bound."""
    finite = _finite(drawn)
    return float(finite.max()) if finite.size and finite.max() > above else 1.0


def _finite_or_nan(drawn: Named) -> dict[str, np.ndarray]:
    """The arrays in float64, with NaN for infinities, so that NaN stands for all undefined."""
    arrays = {name: np.array(values, np.float64) for name, values in drawn.items()}
    for values in arrays.values():
        values[~np.isfinite(values)] = np.nan
    return arrays


def _curve(ax: Axes, x: np.ndarray, values: np.ndarray, place: int, *, banded: bool) -> Line2D:
    """A model's curve, strongest at place -1; returns its line."""
    strong = place < 0
    colour = _FIRST if strong else _OTHERS[place % len(_OTHERS)]
    cycle = place // len(_OTHERS)
    dashes = "-" if strong else _DASHES[cycle % len(_DASHES)]
    mean = values.mean(axis=1)
    if banded:
        low, high = np.min(values, axis=1), np.max(values, axis=1)
        if len(x) > 1:
            ax.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)
        # Blocks without neighbours have no area.
        finite = np.pad(np.isfinite(mean), 1)
        alone = ~finite[:-2] & finite[1:-1] & ~finite[2:]
        ax.vlines(x[alone], low[alone], high[alone], color=colour, alpha=0.4, linewidth=1.6)
    (line,) = ax.plot(
        *(x, mean),
        color=colour,
        linestyle=dashes,
        linewidth=2.4 if strong else 1.2,
        marker="o" if strong else _MARKERS[(place + cycle) % len(_MARKERS)],
        markersize=(5 if strong else 3.6) * (1 if len(x) <= 32 else 0.6),
        zorder=4 if strong else 3,
    )
    return line


def _number_axis(ax: Axes, numbers: np.ndarray) -> None:
    """Ticks at blocks that were measured, where these are few; else at some round numbers."""
    low, high = int(numbers.min()), int(numbers.max())
    room = max(0.5, 0.02 * (high - low))
    ax.set_xlim(low - room, high + room)
    if len(numbers) == 1 or (len(numbers) <= 16 and np.diff(numbers).min() * 32 >= high - low):
        ax.set_xticks(numbers)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))


def _heatmap(
    ax: Axes,
    values: np.ndarray,
    norm: Normalize,
    *,
    aspect: str,
    origin: str = "lower",
    triangle: bool = False,
    colours: str = "viridis",
) -> None:
    """Draws values, over a hatched ground where some are NaN."""
    rows, columns = values.shape
    inside = np.tri(rows, columns, dtype=bool) if triangle else np.ones(values.shape, bool)
    if np.isnan(values[inside]).any():
        edges = np.arange(columns + 1) - 0.5
        top = np.minimum(edges, rows - 0.5) if triangle else np.full(columns + 1, -0.5)
        ax.fill_between(edges, top, rows - 0.5, step="post", zorder=-1, **_UNDEFINED)
    ax.imshow(
        *(values, style.colour_map(colours, bad="none")),
        norm=norm,
        aspect=aspect,  # type: ignore[arg-type]
        origin=origin,  # type: ignore[arg-type]
        interpolation="nearest",
    )


def _ticks(ax: Axes, *, x: int = 0, y: int = 0, most: int = 6) -> None:
    """Numbers from 0 along axes with x and y cells, at most some."""
    for axis, count in ((ax.xaxis, x), (ax.yaxis, y)):
        if count:
            step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if count <= most * s * 10**p)
            axis.set_ticks(range(0, count, step))


def _squares(count: int, width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """A grid of panels that are about square, no wider than they need."""
    figure, axes = style.grid(count, width=width, height=height, columns=columns)
    figure.set_figwidth(width * min(count, _across(axes)) + 1.0)
    return figure, axes


def _across(axes: Sequence[Axes]) -> int:
    spec = axes[0].get_subplotspec()
    assert spec is not None
    return spec.get_gridspec().ncols


def _finish(
    figure: Figure,
    axes: Sequence[Axes],
    drawn: Named,
    norm: Normalize,
    labels: tuple[str, str, str],
) -> None:
    """Labels of x, y and colours at the edges, and what the hatches mean if there are any."""
    columns = _across(axes)
    for i, ax in enumerate(axes):
        ax.set_xlabel(labels[0] if i + columns >= len(axes) else "")
        ax.set_ylabel(labels[1] if i % columns == 0 else "")
    finite = _finite(drawn)
    # Rounding is no reason for an arrow.
    below = finite.size and finite.min() < (norm.vmin or 0) * (1 - 1e-9) - 1e-9
    above = finite.size and finite.max() > (norm.vmax or 0) * (1 + 1e-9)
    if isinstance(norm, LogNorm):
        below = finite.size and finite.min() < _LEAST_WEIGHT
    extend = ("both" if above else "min") if below else ("max" if above else "neither")
    image = axes[0].images[0]
    long = 22 * -(-len(axes) // columns)
    bar = figure.colorbar(image, ax=axes, extend=extend, shrink=0.85, aspect=long, pad=0.015)  # type: ignore[arg-type]
    bar.set_label(labels[2])
    if isinstance(norm, LogNorm):
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    if any(np.isnan(values).any() for values in drawn.values()):
        patch = Patch(label="not defined", **_UNDEFINED)
        figure.legend(handles=[patch], loc="outside lower center")
    engine = figure.get_layout_engine()
    if engine is not None and axes[0].get_aspect() == 1.0:
        # Room for titles is measured from cells that panels of square cells do not fill at first;
        # drawing measures again, from this layout.
        engine.execute(figure)


def _columns(count: int) -> int:
    return 4 if count <= 16 else 5


def _finite(drawn: Named) -> np.ndarray:
    values = np.concatenate([np.ravel(array) for array in drawn.values()])
    return values[np.isfinite(values)]


def _wrapped(name: str, width: int = 26) -> str:
    """A title of at most two lines; of a longer name, its beginning and its end."""
    lines = textwrap.wrap(name, width) or [""]
    if len(lines) > 2:
        rest = name[-width + 1 :].strip()
        return f"{style.label(lines[0], width)}\n…{style.label(rest, width)}"
    return "\n".join(style.label(line, width) for line in lines)
