"""Model cards of edited checkpoints: what one is and how it was made."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import svdjax
from svdjax.checkpoint.matching import ranges
from svdjax.construct.changes import Change
from svdjax.construct.controls import CONTROLS
from svdjax.construct.job import INITIALISATIONS, ConstructJob, InitialiseJob
from svdjax.construct.markdown import code, identifier, is_hub_id, source_name, table_row
from svdjax.construct.tree import factorisation_for


def model_card(job: ConstructJob, changes: Mapping[str, Change], layers: Sequence[int]) -> str:
    """The text of README.md of a construction."""
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
    rows.append(("factorisation", factorisation_for(job.factorisation, recipe.polar)))
    title = f"{recipe.title[0].upper()}{recipe.title[1:]} (eq. {recipe.number})"
    lines = _head(
        ["construction", job.construction, *([job.control] * bool(job.control))],
        [source for source in sources if is_hub_id(source)],
        title + f", control: {job.control}" * bool(job.control),
        "A checkpoint edited to test an explanation of what post-training does (Understanding "
        "Post-Training Structural Changes in Large Language Models, arXiv 2509.17866), "
        f"written by svdjax {svdjax.__version__}. It may be broken on purpose.",
        rows,
    )
    lines += [
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
    return "\n".join([*lines, *_table(changes, job)])


def initialisation_card(
    job: InitialiseJob,
    projections: Sequence[str],
    layers: Sequence[int],
    starts: Mapping[str, int],
) -> str:
    """The text of README.md of an initialisation; `starts` are LoRA's first components."""
    title = INITIALISATIONS[job.construction]
    rows = [
        ("initialisation", title),
        ("model", code(source_name(job.base))),
        ("modules", ", ".join(map(identifier, projections))),
        ("layers", ranges(layers)),
        ("rank", str(job.rank)) if job.lora else ("factor", code(job.factor, 200)),
    ]
    rows += [
        (f"components of {identifier(name)}", f"{start} to {start + job.rank - 1}")
        for name, start in starts.items()
    ]
    usage = (
        "With the adapter in `adapter/` it is the original model, to the accuracy of float32 "
        '(`PeftModel.from_pretrained(base, "adapter", is_trainable=True)` from PEFT, with this '
        "directory as base); by itself it is not. adapter_config.json names this directory by "
        "its absolute path: mend it there if the directory is moved. The idea of other "
        "components than the top ones is from appendix F of the paper, the top ones are PiSSA "
        "(arXiv 2404.02948)."
        if job.lora
        else "Appendix F of the paper suggests o_proj times 1.4 before reasoning training."
    )
    about = f"Written by svdjax {svdjax.__version__} (method: arXiv 2509.17866). {usage}"
    return "\n".join(_head([job.construction], [], title, about, rows))


def _head(
    tags: Sequence[str],
    base_models: Sequence[str],
    title: str,
    about: str,
    rows: Sequence[tuple[str, str]],
) -> list[str]:
    """Lines of a card: front matter for the hub, title, a paragraph, what was asked for."""
    front = {
        "library_name": "transformers",
        "tags": ["svdjax", *tags],
        "base_model": list(base_models),
    }
    return [
        *("---", *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value), "---"),
        *("", f"# {title}", "", about, "", "| | |", "| --- | --- |"),
        *map(table_row, rows),
    ]


def _table(changes: Mapping[str, Change], job: ConstructJob) -> list[str]:
    heads = ["projection", "matrices", "change", "smallest … largest", "norm ratio", "σ ratio"]
    heads += ["α′"] * job.recipe.scaled
    heads += ["arbitrary signs"] * (job.signs == "aligned")
    heads += ["surviving", "predicted", "rank-deficient"]
    lines = [table_row(heads), f"|{' --- |' * len(heads)}"]
    for name, change in changes.items():
        cells = [
            identifier(name),
            str(change.layers),
            _number(change.change),
            f"{_number(change.change_min)} … {_number(change.change_max)}",
            _number(change.norm_ratio),
            f"{_number(change.sigma_ratio)} ({_number(change.sigma_ratio_min)} … "
            f"{_number(change.sigma_ratio_max)})",
        ]
        cells += [_number(change.alpha, 6)] * job.recipe.scaled
        cells += [f"{100 * change.arbitrary:.3g} %"] * (job.signs == "aligned")
        cells += [_number(change.surviving), _number(change.surviving_predicted)]
        cells.append(str(change.deficient))
        lines.append(table_row(cells))
    return lines


def _number(value: float, digits: int = 4) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}g}"
