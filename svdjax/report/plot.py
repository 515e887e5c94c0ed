"""Plots of a page: what is drawn, as data; the page's own code draws them (`web/charts.js`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Plot:
    """A figure of the page with one panel or several.

    Panels by kind, all texts untrusted:

    * ``lines``: ``x`` numbers, ``labels`` of integer x, ``series`` of ``label``, ``y``, ``low`` and
      ``high`` of a band, ``colour`` index, ``dash``, ``strong``; ``rules`` (horizontal lines),
      ``log``, ``xlog``, ``zero`` (y begins at 0), ``range`` of y;
    * ``heat``: ``values`` [rows, columns], labels of ``rows`` and ``columns``;
    * ``dots``: ``series`` of ``values`` and ``error`` for each of `rows`; ``rules`` of (x, colour);
    * ``points``: ``points`` of ``x``, ``y``, ``label``, ``group``, ``colour``; both logarithmic.

    Attributes:
        name: Stem of saved files.
        title: Its title, with the number of the paper's figure.
        caption: How to read it.
        kind: Which of the above.
        panels: What is in each panel.
        x: Label of the x axis.
        y: Label of the y axis.
        percent: Whether y is a ratio that is shown in %.
        shared: Whether all panels have one y axis.
        rows: Rows of ``dots``: ``label``, and ``heading`` of those that are none.
        scale: Colours of ``heat``: ``colours`` (sequential, diverging), ``low``, ``high``, ``log``,
            ``label``.
        options: What else the drawing takes: ``upwards``, ``triangle``, ``square``, ``spread``.
    """

    name: str
    title: str
    caption: str
    kind: Literal["lines", "heat", "dots", "points"]
    panels: Sequence[Mapping[str, Any]]
    x: str = ""
    y: str = ""
    percent: bool = False
    shared: bool = False
    rows: Sequence[Mapping[str, Any]] = ()
    scale: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """The plot as the page's code takes it."""
        record = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "options"}
        return {**record, **self.options}


def layer_panel(
    title: str,
    layers: Sequence[str],
    series: Iterable[Mapping[str, Any]],
    *,
    rules: Sequence[float] = (),
    log: bool | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Panel of ``lines`` over layers.

    Args:
        title: Title of the panel.
        layers: Label of each layer.
        series: Lines of the panel.
        rules: Horizontal lines.
        log: Whether y is logarithmic; None where the values span one to nine decades.
        **options: Of the panel.
    """
    lines = list(series)
    if log is None:
        log = spans_decades([line["y"] for line in lines])
    return {
        "title": title,
        "x": list(range(len(layers))),
        "labels": list(layers),
        "series": lines,
        "rules": [rule for rule in rules if np.isfinite(rule)],
        "log": log,
        "zero": not log,
        **options,
    }


def spans_decades(values: Iterable[Any]) -> bool:
    """Whether values are positive and span one to nine decades; beyond, the small are rounding."""
    array = np.concatenate([np.ravel(np.asarray(each, np.float64)) for each in values] or [[]])
    finite = array[np.isfinite(array)]
    if not finite.size or finite.min() <= 0:
        return False
    return bool(10 < finite.max() / finite.min() < 1e9)


def dot_rows(groups: Mapping[str, Mapping[str, str]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of ``dots``, a heading per group and a row per model; and each row's model or ``""``."""
    rows, names = [], []
    for heading, members in groups.items():
        rows.append({"label": heading, "heading": True})
        names.append("")
        for name, text in members.items():
            rows.append({"label": text})
            names.append(name)
    return rows, names
