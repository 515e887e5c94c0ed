"""The model card of a constructed checkpoint: what it is and how it was made."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import svdjax
from svdjax.checkpoint.matching import ranges
from svdjax.construct.changes import Change
from svdjax.construct.controls import CONTROLS
from svdjax.construct.job import ConstructJob
from svdjax.construct.markdown import code, identifier, is_hub_id, source_name, table_row
from svdjax.construct.tree import route_for


def model_card(job: ConstructJob, changes: Mapping[str, Change], layers: Sequence[int]) -> str:
    """The text of README.md."""
    recipe = job.recipe
    sources = [job.post, job.other if recipe.partner == "other" else job.base]
    control = [("W′ of the construction", recipe.formula), ("control", job.control)]
    enters = recipe.partner == "base" or bool(job.control)
    rows = [
        ("construction", f"eq. {recipe.number}, {recipe.title}"),
        *(control * bool(job.control)),
        ("new W_post", CONTROLS.get(job.control, recipe.formula)),
        ("modules", f"{code(job.chosen.text, 200)}: {', '.join(map(identifier, changes))}"),
        ("layers", ranges(layers)),
        ("post", code(source_name(job.post))),
        ("base", code(source_name(job.base)) + " (does not enter)" * (not enters)),
    ]
    rows += [("other", code(source_name(job.other)))] * bool(job.other)
    if job.control == "noise":
        rows.append(("seed", str(job.seed)))
    if recipe.signed:
        rows.append(("signs of pairs", job.signs))
    if recipe.scaled:
        rows.append(("α′", f"{code(pathlib.PurePath(job.factors.source).name, 200)}, see below"))
    rows.append(("factorisation", route_for(job.factorisation, recipe.polar)))
    front = {
        "library_name": "transformers",
        "tags": ["svdjax", "construction", job.construction, *([job.control] * bool(job.control))],
        "base_model": [source for source in sources if is_hub_id(source)],
    }
    lines = ["---", *(f"{k}: {json.dumps(v)}" for k, v in front.items() if v), "---", ""]
    title = f"{recipe.title[0].upper()}{recipe.title[1:]} (eq. {recipe.number})"
    lines += [f"# {title}" + f", control: {job.control}" * bool(job.control), ""]
    lines += [
        "A checkpoint edited to test an explanation of what post-training does (Understanding "
        "Post-Training Structural Changes in Large Language Models, arXiv 2509.17866), "
        f"written by svdjax {svdjax.__version__}. It may be broken on purpose.",
        "",
        "| | |",
        "| --- | --- |",
        *(table_row(row) for row in rows),
        "",
        "`W = U Σ Vᵀ` is taken of the (in, out) matrix, the transpose of the stored `weight`. "
        "Every other tensor is that of post, bit for bit"
        + (f", converted to {job.dtype} where it was stored otherwise." if job.dtype else "."),
        "",
        "## What changed",
        "",
        "‖new − post‖_F / ‖post‖_F over the chosen layers together and of single matrices, "
        "‖new‖_F / ‖post‖_F, and σ_new / σ_post over the top 90 % of the singular values. "
        "Surviving: ⟨new − α base, Δ⟩ / ‖Δ‖² with Δ = post − α base, α by least squares: 1 of "
        "post, 0 of base; a restoration leaves the share predicted of any small random Δ.",
        "",
    ]
    return "\n".join([*lines, *_table(changes, job), ""])


def _table(changes: Mapping[str, Change], job: ConstructJob) -> list[str]:
    heads = ["projection", "matrices", "change", "smallest … largest", "norm ratio", "σ ratio"]
    heads += ["α′"] * job.recipe.scaled
    heads += ["arbitrary signs"] * (job.signs == "aligned")
    heads += ["surviving", "predicted", "rank-deficient"]
    lines = [table_row(heads), f"|{' --- |' * len(heads)}"]
    for name, one in changes.items():
        cells = [
            identifier(name),
            str(one.layers),
            _number(one.change),
            f"{_number(one.change_min)} … {_number(one.change_max)}",
            _number(one.norm_ratio),
            f"{_number(one.sigma_ratio)} ({_number(one.sigma_ratio_min)} … "
            f"{_number(one.sigma_ratio_max)})",
        ]
        cells += [_number(one.alpha, 6)] * job.recipe.scaled
        cells += [f"{100 * one.arbitrary:.3g} %"] * (job.signs == "aligned")
        cells += [_number(one.surviving), _number(one.surviving_predicted), str(one.deficient)]
        lines.append(table_row(cells))
    return lines


def _number(value: float, digits: int = 4) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}g}"
