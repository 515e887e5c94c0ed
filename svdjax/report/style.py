"""Style of all figures: fonts, colours, safe labels, grids of panels, axes.

Figures are made with matplotlib's objects, never through pyplot, so that nothing global changes.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, NullFormatter

from svdjax.report.files import write

DPI = 130
BASE, POST, MUTED = "#1f5a92", "#c4511b", "#6b7280"
# Distinct in hue and in lightness, so that they stay apart in print and for colour-blind readers.
COLOURS = (
    *("#1f5a92", "#c4511b", "#2f8f5b", "#8e44ad", "#b8860b", "#0f8b9d"),
    *("#d1478c", "#5d6d7e", "#7a3e12", "#5b8def", "#8fae1b", "#111827"),
)
MARKERS = "osD^vPX<>*hd"

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.3,
    "savefig.dpi": DPI,
    "text.usetex": False,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Context in which figures are drawn and rendered in the report's style."""
    with matplotlib.rc_context(rc=_RC):
        yield


def png(figure: Figure) -> bytes:
    """PNG of a figure; its bytes depend on the figure alone."""
    buffer = io.BytesIO()
    # savefig would lay out and draw everything twice.
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    imsave(buffer, pixels, format="png", dpi=DPI, metadata={"Software": "svdjax"})
    return buffer.getvalue()


def save(draw: Callable[[], Iterable[tuple[str, Figure]]], folder: pathlib.Path, kind: str) -> None:
    """Writes figures to ``<folder>/<name>.<kind>``; their bytes depend on the figures alone.

    Args:
        draw: Draws them, each with its name.
        folder: Made if it does not exist.
        kind: ``png``, ``svg`` or ``pdf``.
    """
    with drawing(), matplotlib.rc_context({"svg.hashsalt": "svdjax"}):
        for name, figure in draw():
            write(
                folder / f"{name}.{kind}", png(figure) if kind == "png" else _vector(figure, kind)
            )


def _vector(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    figure.savefig(buffer, format=kind, metadata=date)
    return buffer.getvalue()


def label(text: str, most: int = 34) -> str:
    """A name as figure text: no mathematics, no glyph the font lacks, its middle cut if long."""
    text = text.removesuffix(".weight")
    shown = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)
    if len(shown) > most:
        shown = shown[: most // 3] + "…" + shown[len(shown) - (most - most // 3 - 1) :]
    return shown.replace("$", r"\$")


def columns(names: Sequence[str], most: int = 7) -> int:
    """Number of entries of a legend that fit side by side under a figure of the page's width."""
    # 130 letters fit; a marker and its distances take 7.
    return max(1, min(most, len(names), 130 // (max(map(len, names), default=0) + 7)))


def grid(
    count: int, *, width: float = 2.9, height: float = 2.3, columns: int = 4, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of up to `columns`; no axes are left over."""
    columns = min(columns, count) if count <= columns or count > 6 else 3
    rows = -(-count // columns)
    size = (max(width * columns, 5.2) + 0.6, height * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes: list[Axes] = []
    for i in range(count):
        share = axes[0] if sharey and axes else None
        axes.append(figure.add_subplot(rows, columns, i + 1, sharey=share))
    return figure, axes


def reference_line(axes: Axes, value: float, **line: Any) -> None:
    """Draws a dashed horizontal line, such as the level of unrelated matrices."""
    axes.axhline(value, **{"color": "#111827", "linestyle": (0, (4, 3)), "linewidth": 1, **line})


def layer_axis(axes: Axes, layers: Sequence[str], *, room: int = 28) -> None:
    """Labels the x axis with layers, thinned so that they never touch.

    Args:
        axes: The axes.
        layers: Label of each layer.
        room: Number of digits that fit side by side.
    """
    count = len(layers)
    longest = min(8, max(len(text) for text in layers))
    step = max(1, -(-count // max(2, room // longest)))
    ticks = list(range(0, count, step))
    axes.set_xticks(ticks, [label(layers[tick], 8) for tick in ticks])
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_xlabel("layer")


def error_scale(axes: Axes, values: np.ndarray, *, percent: bool = False) -> None:
    """Makes the y axis logarithmic if values span one to nine decades, else linear from 0."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    ratio = positive.max() / positive.min() if positive.size else 1.0
    # Beyond nine decades the small ones are rounding errors, which would squeeze all the rest.
    if positive.size == finite.size and 10 < ratio < 1e9:
        log_axis(axes, finite, percent=percent)
    else:
        axes.set_ylim(0, 1.08 * finite.max() if finite.size and finite.max() > 0 else 1)
        if percent:
            axes.yaxis.set_major_formatter(percentages())


def percentages() -> FuncFormatter:
    """Format of ratios as percentages."""
    return FuncFormatter(lambda value, _: f"{100 * value:g} %")


def log_axis(axes: Axes, values: np.ndarray, *, percent: bool = False) -> None:
    """Makes the y axis logarithmic, with plain numbers: 0.01, 20, not powers of ten."""

    def plain(value: float, _: object = None) -> str:
        shown = 100 * value if percent else value
        return f"{shown:g}" + (" %" if percent else "")

    def minor(value: float, _: object = None) -> str:
        mantissa = value / 10 ** np.floor(np.log10(value) + 1e-9)
        return plain(value) if round(mantissa, 3) in (2, 5) else ""

    axes.set_yscale("log")
    ticks = axes.yaxis
    ticks.set_major_formatter(FuncFormatter(plain))
    narrow = values.size and values.max() < 300 * values[values > 0].min()
    ticks.set_minor_formatter(FuncFormatter(minor) if narrow else NullFormatter())


def note(axes: Axes, text: str) -> None:
    """Writes in the middle of a panel why it is empty."""
    axes.text(
        *(0.5, 0.5, text),
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        color=MUTED,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )


def colour_map(name: str, *, bad: str = "#f2c200") -> Colormap:
    """Colour map with a colour of its own for NaN."""
    return matplotlib.colormaps[name].with_extremes(bad=bad)
