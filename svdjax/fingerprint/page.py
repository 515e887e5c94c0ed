"""The page of a verdict on a common origin: its evidence, the alignment, one plot."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from svdjax.fingerprint.findings import further_words, verdict_words
from svdjax.report import page
from svdjax.report.blob import Blob, packed_json
from svdjax.report.cells import Head, Row, Spec, TableView, dec, plain, sig
from svdjax.report.numbers import MISSING, decimal, percent
from svdjax.report.plot import Plot, layer_panel

_RESIDUAL = {
    "as it is": "none was needed: the residual streams are laid over each other as they are",
    "embeddings": "by orthogonal Procrustes on the embeddings of common tokens",
    "weights": "from the weights alone, found in one half of the blocks and tested in the other",
}


def write_fingerprint(path: pathlib.Path, result: Mapping[str, Any]) -> pathlib.Path:
    """Writes the self-contained page of a verdict.

    Args:
        path: File of the page.
        result: The content of the verdict's JSON file; NaN or None where a number is undefined.
    """
    plot, blob = _distances(result), Blob()
    meta = blob.plain({"plots": {plot.name: plot.data()}})
    return page.render(
        path,
        "fingerprint.html",
        result=result,
        words=verdict_words(result),
        more=further_words(result),
        distance=decimal(result["distance"]),
        p=probability(result["log10_p_value"]),
        facts=_facts(result),
        projections=_view(
            "By projection",
            "Pooled over the layers. Distance is 1 − tr(I_orth)/r: 0 same, about 1 unrelated. NF "
            "over the level of unrelated matrices, mean over the layers.",
            _PROJECTIONS,
            _named(result["projections"]),
        ),
        parts=_view(
            "By part",
            "Attention and feed-forward part of each layer of the suspect with the layer of the "
            "reference that it was compared with, embeddings and head over common tokens. p is "
            "multiplied by the numbers of parts and of alignments.",
            _PARTS,
            result["parts"],
        ),
        references=_view(
            "By reference",
            "The suspect against each of them. The rest of the page is about the nearest "
            "reference.",
            _REFERENCES,
            result["references"],
        )
        if "references" in result
        else None,
        tried=_view(
            "Alignments of the residual stream that were tried",
            "The one under which most parts are related counts, of several the one with the "
            "smallest distance; the p-value is multiplied by their number.",
            _TRIED,
            _named(result["alignment"]["tried"]),
        ),
        distances=plot,
        meta=packed_json(meta | {"arrays": blob.index}),
        data=blob.pack(),
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
    """The alignment in words; only what there was."""
    alignment = result["alignment"]
    facts = [("residual stream", _RESIDUAL[alignment["residual"]])]
    blocks = alignment["layers"]
    text = f"{len(blocks)} pairs"
    if any(reference != suspect for reference, suspect in blocks):
        text += ": " + ", ".join(f"{a}–{b}" for a, b in blocks[:40])
        text += " …" if len(blocks) > 40 else ""
    facts.append(("blocks (reference–suspect)", text))
    facts += [(text, percent(alignment[key])) for key, text in _SHARES if key in alignment]
    tokens = alignment["tokens"]
    facts.append(("tokens in common", f"{tokens['common']}, matched by {tokens['matched_by']}"))
    return facts


def _bound(row: Row) -> str:
    return probability(row["log10_p_value"])


def _projection_bound(row: Row) -> str:
    z = row["z"]
    return probability(-0.5 * z * z / np.log(10) if z is not None and z > 0 else 0.0)


_SHARES = (
    ("kv_heads_moved", "kv heads moved"),
    ("heads_moved", "heads moved within their group"),
    ("heads_agree", "heads placed alike by q, k and by v, o"),
    ("neurons_moved", "neurons moved"),
    ("neurons_flipped", "neurons with another sign"),
    ("neurons_agree", "neurons placed alike by all three matrices"),
)
_PROJECTIONS: tuple[Spec, ...] = (
    ("projection", plain("name")),
    ("in × out", lambda row: "{} × {}".format(*row["shape"])),
    ("layers", plain("layers")),
    ("distance", dec("distance")),
    ("z", sig("z")),
    ("p ≤", _projection_bound),
    ("NF / unrelated", dec("nf_ratio_mean")),
)
_PARTS: tuple[Spec, ...] = (
    ("part", plain("part")),
    ("layer of the reference", lambda row: str(MISSING if (n := row["reference"]) is None else n)),
    ("verdict", plain("verdict")),
    ("distance", dec("distance")),
    ("z", sig("z")),
    ("p ≤", _bound),
)
_REFERENCES: tuple[Spec, ...] = (
    ("checkpoint", plain("reference")),
    ("named as", plain("role")),
    ("verdict", plain("verdict")),
    ("distance", dec("distance")),
    ("p ≤", _bound),
)
_TRIED: tuple[Spec, ...] = (
    ("alignment", plain("name")),
    ("distance", dec("distance")),
    ("z", sig("z")),
)


def _view(title: str, caption: str, columns: Sequence[Spec], rows: Iterable[Row]) -> TableView:
    """A table that is in no file of its own, its first column of text."""
    return TableView(
        title=title,
        caption=caption,
        heads=tuple(Head(label, text=n == 0) for n, (label, _) in enumerate(columns)),
        rows=tuple(tuple(show(row) for _, show in columns) for row in rows),
        hidden=0,
        file="",
        folded=False,
    )


def _named(entries: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    return [{"name": name, **entry} for name, entry in entries.items()]


def _distances(result: Mapping[str, Any]) -> Plot:
    """Distance of every matrix, projections by layers, with the thresholds on the scale."""
    series = [
        {
            "label": name,
            "y": [math.nan if (d := layer["distance"]) is None else d for layer in one["by_layer"]],
        }
        for name, one in result["projections"].items()
    ]
    layers = [str(pair[0]) for pair in result["alignment"]["layers"]]
    thresholds = [result["thresholds"]["derived"], result["thresholds"]["unrelated"]]
    panel = layer_panel("", layers, series, rules=thresholds, log=False)
    return Plot(
        "distances",
        "Distance by layer",
        "Every matrix by itself, aligned. Below the lower line a pooled distance counts as "
        "related, above the upper one as unrelated.",
        "lines",
        [panel],
        x="layer of the reference",
        y="1 − tr(I_orth)/r",
        options={"height": 300},
    )
