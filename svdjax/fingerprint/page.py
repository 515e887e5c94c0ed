"""The page of a verdict on common origin: what it rests on, what was undone, one figure."""

from __future__ import annotations

import base64
import math
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from svdjax.fingerprint.wording import ancestor_words, nearest_words, training_words, verdict_words
from svdjax.report import page, style
from svdjax.report.cells import Head, TableView
from svdjax.report.numbers import decimal, percent, significant
from svdjax.report.page import Picture

_RESIDUAL = {
    "as it is": "none was needed: the residual streams are laid over each other as they are",
    "embeddings": "by orthogonal Procrustes on the embeddings of common tokens",
    "weights": "from the weights alone, found in one half of the blocks and tested in the other",
}


def write_fingerprint(path: pathlib.Path, result: Mapping[str, Any]) -> pathlib.Path:
    """Writes the page, self-contained.

    Args:
      path: of the page.
      result: the content of the verdict's JSON file; NaN or None where a number is not defined.
    """
    with style.drawing():
        figure = _picture(result)
    return page.render(
        path,
        "fingerprint.html",
        result=result,
        words=verdict_words(result),
        more=[
            text
            for text in (training_words(result), nearest_words(result), ancestor_words(result))
            if text
        ],
        distance=decimal(result["distance"]),
        p=probability(result["log10_p_value"]),
        facts=_facts(result),
        projections=_projections(result),
        parts=_parts(result),
        references=_references(result),
        tried=_tried(result),
        figure=figure,
    )


def probability(log10: float) -> str:
    """A bound on a probability from its decimal logarithm, however small."""
    if log10 >= 0:
        return "1"
    if log10 > -4:
        return f"{10**log10:.2g}"
    if log10 <= -300:
        # Rounded up, so that it bounds.
        return f"10^{math.ceil(log10)}"
    whole = math.floor(log10)
    return f"{10 ** (log10 - whole):.1f}e{whole:d}"


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was undone, in words; only what there was."""
    found = result["alignment"]
    facts = [("residual stream", _RESIDUAL[found["residual"]])]
    blocks = found["layers"]
    moved = [pair for pair in blocks if pair[0] != pair[1]]
    text = f"{len(blocks)} pairs"
    if moved:
        text += ": " + ", ".join(f"{a}–{b}" for a, b in blocks[:40])
        text += " …" if len(blocks) > 40 else ""
    facts.append(("blocks (reference–suspect)", text))
    names = {
        "kv_heads_moved": "kv heads moved",
        "heads_moved": "heads moved within their group",
        "heads_agree": "heads placed alike by q, k and by v, o",
        "neurons_moved": "neurons moved",
        "neurons_flipped": "neurons with another sign",
        "neurons_agree": "neurons placed alike by all three matrices",
    }
    facts += [(text, percent(found[name])) for name, text in names.items() if name in found]
    tokens = found["tokens"]
    facts.append(("tokens in common", f"{tokens['common']}, matched by {tokens['matched_by']}"))
    return facts


def _projections(result: Mapping[str, Any]) -> TableView:
    heads = ("projection", "in × out", "layers", "distance", "z", "p ≤", "NF / unrelated")
    rows = [
        (
            name,
            "{} × {}".format(*one["shape"]),
            str(one["layers"]),
            decimal(one["distance"]),
            significant(one["z"]),
            probability(min(0.0, _log10(one["z"]))),
            decimal(one["nf_ratio_mean"]),
        )
        for name, one in result["projections"].items()
    ]
    return _view(
        "By projection",
        "Pooled over the layers. Distance is 1 − tr(I_orth)/r: 0 same, about 1 unrelated. NF over "
        "the level of unrelated matrices, mean over the layers.",
        heads,
        rows,
    )


def _parts(result: Mapping[str, Any]) -> TableView:
    rows = [
        (
            part["part"],
            "–" if part["reference"] is None else str(part["reference"]),
            part["verdict"],
            decimal(part["distance"]),
            significant(part["z"]),
            probability(part["log10_p_value"]),
        )
        for part in result["parts"]
    ]
    return _view(
        "By part",
        "Attention and feed-forward part of each layer of the suspect with the layer of the "
        "reference that it was compared with, embeddings and head over common tokens. p is "
        "multiplied by the numbers of parts and of alignments.",
        ("part", "layer of the reference", "verdict", "distance", "z", "p ≤"),
        rows,
    )


def _references(result: Mapping[str, Any]) -> TableView | None:
    if "references" not in result:
        return None
    rows = [
        (
            each["reference"],
            each["role"],
            each["verdict"],
            decimal(each["distance"]),
            probability(each["log10_p_value"]),
        )
        for each in result["references"]
    ]
    return _view(
        "By reference",
        "The suspect against each of them. The rest of the page is about the nearest reference.",
        ("checkpoint", "named as", "verdict", "distance", "p ≤"),
        rows,
    )


def _tried(result: Mapping[str, Any]) -> TableView:
    rows = [
        (name, decimal(one["distance"]), significant(one["z"]))
        for name, one in result["alignment"]["tried"].items()
    ]
    return _view(
        "Alignments of the residual stream that were tried",
        "The one under which most parts are related counts, of several the one with the smallest "
        "distance; the p-value is multiplied by their number.",
        ("alignment", "distance", "z"),
        rows,
    )


def _view(title: str, caption: str, heads: tuple[str, ...], rows: list[Any]) -> TableView:
    return TableView(
        title=title,
        caption=caption,
        heads=tuple(Head(head, text=number == 0) for number, head in enumerate(heads)),
        rows=tuple(rows),
        hidden=0,
        file="",
        folded=False,
    )


def _log10(z: float | None) -> float:
    return -0.5 * z * z / np.log(10) if z is not None and z > 0 else 0.0


def _picture(result: Mapping[str, Any]) -> Picture:
    """Distance of every matrix, projections by layers, with the thresholds on the scale."""
    figure = _figure(result)
    data = style.png(figure)
    width, height = struct.unpack(">II", data[16:24])
    scale = 96 / style.DPI
    return Picture(
        anchor="distances",
        title="Distance by layer",
        caption="Every matrix by itself, aligned. Below the lower line a pooled distance counts as "
        "related, above the upper one as unrelated.",
        alt="Distance of every projection over the layers.",
        data=base64.b64encode(data).decode("ascii"),
        width=round(width * scale),
        height=round(height * scale),
    )


def _figure(result: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    highest = 1.0
    for number, (name, one) in enumerate(result["projections"].items()):
        values = [layer["distance"] for layer in one["by_layer"]]
        values = np.array([np.nan if value is None else value for value in values], float)
        highest = max(highest, np.nanmax(values, initial=0.0))
        axes.plot(
            values,
            label=style.label(name),
            color=style.COLOURS[number % len(style.COLOURS)],
            marker=style.MARKERS[number % len(style.MARKERS)],
            markersize=4,
        )
    for threshold in (result["thresholds"]["derived"], result["thresholds"]["unrelated"]):
        axes.axhline(threshold, color=style.MUTED, linewidth=0.8, linestyle="--", zorder=1)
    axes.set_ylim(0, 1.06 * highest)
    axes.set_ylabel("1 − tr(I_orth)/r")
    style.layer_axis(axes, [str(pair[0]) for pair in result["alignment"]["layers"]])
    axes.set_xlabel("layer of the reference")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
