"""Looking at figures as they are rendered."""

from __future__ import annotations

import pathlib

import matplotlib.image
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from svdjax.report import style


def render(figure: Figure, folder: pathlib.Path) -> np.ndarray:
    """RGB of the rendered figure, [height, width, 3]."""
    path = folder / "figure.png"
    path.write_bytes(style.png(figure))
    return matplotlib.image.imread(path)[..., :3]


def assert_alive(figure: Figure, folder: pathlib.Path) -> None:
    """Every axes holds ink of its own, seen in the rendered pixels."""
    pixels = render(figure, folder)
    height, width = pixels.shape[:2]
    for ax in figure.axes:
        box = ax.get_position()
        rows = slice(int((1 - box.y1) * height), int((1 - box.y0) * height))
        columns = slice(int(box.x0 * width) + 2, int(box.x1 * width) - 2)
        inside = pixels[rows, columns]
        assert inside.size
        assert inside.min() < 0.97, ax.get_title()
        assert ax.lines or ax.images or ax.collections or ax.texts or ax.patches


def assert_ticks_apart(figure: Figure) -> None:
    """No two labels of an x axis touch; the figure has been rendered."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    for ax in figure.axes:
        window = ax.get_window_extent(renderer)
        boxes = [
            text.get_window_extent(renderer)
            for text in ax.get_xticklabels(which="both")
            if text.get_text()
        ]
        middles = {(box.x0 + box.x1) / 2: box for box in boxes}
        seen = [middles[x] for x in sorted(middles) if window.x0 - 1 <= x <= window.x1 + 1]
        for one, other in zip(seen, seen[1:]):
            assert one.x1 < other.x0, ax.get_title()
