"""The part of a pair's report that tells what went on inside the models: entropy, CKA, maps."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from svdjax.construct.groups import by_group
from svdjax.construct.recipes import VARIANTS
from svdjax.probe import figures
from svdjax.probe.job import cka_words
from svdjax.report import page, style
from svdjax.report.cells import dec, plain, view
from svdjax.report.numbers import decimal, ends
from svdjax.report.page import Picture
from svdjax.report.section import Section
from svdjax.report.table import Table

if TYPE_CHECKING:
    from svdjax.probe.results import ProbeResults

_INSIDES = ("model", "title", "entropy_last", "entropy_mean", "cka", "cka_last_block")


def insides_section(probes: ProbeResults, folder: pathlib.Path) -> Section:
    """Writes table and figures of a pair's probes; returns what its page shows.

    Args:
      probes: results of the probes stage.
      folder: the pair's.
    """
    table = _insides(probes)
    table.write(folder / "tables")
    with style.drawing():
        figures = list(_probe_figures(probes, folder / "figures"))
    return Section(
        lead=(
            f"{len(probes.titles)} models read {probes.count} prompts, and what went on inside "
            "was held against the original."
        ),
        findings=[("", line) for line in _probe_findings(probes)],
        facts=[("prompts", probes.prompts), ("CKA", _kind(probes))],
        notes=list(probes.notes),
        tables=[
            view(
                *(table, "Inside the models", f"{_words(probes)}. {_INSIDE}", _INSIDE_CELLS),
                text={"model"},
            )
        ],
        figures=figures,
        files=[table.name],
    )


def _insides(probes: ProbeResults) -> Table:
    rows = []
    for name, title in probes.titles.items():
        last = np.diagonal(probes.cka[name])
        rows.append(
            {
                "model": name,
                "title": title,
                "entropy_last": float(np.mean(probes.entropy[f"{name}/last"])),
                "entropy_mean": float(np.mean(probes.entropy[f"{name}/mean"])),
                "cka": probes.similarity(name),
                "cka_last_block": float(last[-1]) if last.size else math.nan,
            }
        )
    return Table("probes", _INSIDES, tuple(rows))


def _kind(probes: ProbeResults) -> str:
    estimate = "debiased" if probes.settings["debiased"] else "biased, as in the paper"
    samples = {
        "prompt": "a sample is a prompt, its tokens averaged: a choice of svdjax, where eq. 17 "
        "averages the prompts at each position (config.probes.samples=position)",
        "position": f"a sample is one of {probes.positions} positions, the prompts averaged, as "
        "eq. 17 has it",
    }
    return f"{estimate}; {samples[probes.settings['samples']]}"


def _words(probes: ProbeResults) -> str:
    return cka_words(probes.settings["samples"], probes.settings["debiased"])


def _probe_findings(probes: ProbeResults) -> list[str]:
    lines = []
    post = float(np.mean(probes.entropy["post/last"]))
    for heading, members in by_group(probes.titles).items():
        names = [name for name in members if name != "post"]
        if not names:
            continue
        alike = ends([probes.similarity(name) for name in names], lambda x: decimal(x, 3))
        entropy = [float(np.mean(probes.entropy[f"{name}/last"])) for name in names]
        what = "Base model" if heading == "Originals" else heading
        lines.append(
            f"{what}: {_words(probes)} with the original {alike}, mean over the blocks; attention "
            "entropy of "
            f"the last position {ends(entropy, lambda x: decimal(x, 3))} nats (original "
            f"{decimal(post, 3)})."
        )
    return lines


def _probe_figures(probes: ProbeResults, folder: pathlib.Path) -> Iterator[Picture]:
    edited = probes.titles.keys() & VARIANTS.keys()
    modules = {"self_attn": ", edited in attention", "mlp": ", edited in the MLP"}
    for module, where in modules.items() if edited else (("all", ""),):
        names = [name for name in probes.titles if _edits(name, module)]
        shown = {name: _label(name) for name in names}
        for kind, words, paper in (
            ("last", "the last position", " (figs. 4b, 15 to 18)"),
            ("mean", "all positions", ""),
        ):
            title = f"Attention entropy of {words}{where}{paper}"
            values = {shown[name]: probes.entropy[f"{name}/{kind}"] for name in names}
            figure = figures.entropy_curves(values, first=shown["post"])
            stem = f"entropy_{kind}_{module}"
            yield page.place(figure, folder, stem, title, _ENTROPY, f"{title}.")
        over = {"prompt": "as figs. 6, 19, but over prompts", "position": "figs. 6, 19"}
        title = f"CKA with the original{where} ({over[probes.settings['samples']]})"
        figure = figures.cka_heatmaps(
            {shown[name]: probes.cka[name] for name in names}, first="the original"
        )
        caption = f"{_words(probes)}. {_CKA}"
        yield page.place(figure, folder, f"cka_{module}", title, caption, f"{title}.")
    if probes.maps:
        block = len(probes.maps["post"]) // 2
        title = f"Attention to the first prompt in block {block} (fig. 4a)"
        maps = {_label(name): stack[block] for name, stack in probes.maps.items()}
        figure = figures.attention_maps(maps)
        yield page.place(figure, folder, "attention", title, _MAPS, f"{title}.")
        changes = figures.differences(maps, _label("post"))
        if changes:
            title = f"Difference of attention from the original in block {block} (fig. 4a)"
            figure = figures.attention_differences(changes)
            yield page.place(figure, folder, "attention_difference", title, _CHANGES, f"{title}.")


def _edits(name: str, module: str) -> bool:
    """Whether a model belongs among those edited in a module; the originals always do."""
    return name not in VARIANTS or VARIANTS[name].modules in (module, "all")


def _label(name: str) -> str:
    """What figures call a model."""
    variant = VARIANTS.get(name)
    if variant is None:
        return {"post": "original", "base": "base model"}.get(name, name)
    recipe = variant.recipe
    if recipe.kind == "replaced":
        return f"replaced, eq. {recipe.number}"
    extra = ", other" if recipe.partner == "other" else f", {variant.signs}" * bool(variant.signs)
    return f"{recipe.kind} of {recipe.changes}{extra}"


_INSIDE = (
    "Means over blocks and heads; entropy in nats. CKA with the same block of the original: 1 is "
    "the same, also where one side is rotated or scaled. With few prompts even unrelated models "
    "are well above 0."
)
_INSIDE_CELLS = [
    ("model", plain("title")),
    ("entropy, last position", dec("entropy_last", 3)),
    ("all positions", dec("entropy_mean", 3)),
    ("CKA", dec("cka", 3)),
    ("CKA, last block", dec("cka_last_block", 3)),
]
_ENTROPY = (
    "Line: mean of the heads of a block; band, of the original: from the least to the greatest. "
    "The more even the attention, the higher; curves that lie on the original's attend as it does."
)
_CKA = (
    "Rows: blocks of the original; columns: blocks of the model above. A bright diagonal means "
    "that hidden states are alike block by block."
)
_CHANGES = (
    "The model's weights above minus the original's, mean over the heads: red where it attends "
    "more, blue where less, on one scale for all."
)
_MAPS = "Mean over the heads; rows attend to columns. Only some of the models have maps."
