"""Attention entropy, CKA and attention maps in a pair's report."""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.construct.groups import by_group
from svdjax.construct.recipes import VARIANTS
from svdjax.probe.job import cka_label
from svdjax.probe.results import differences
from svdjax.report.cells import dec, plain, share, sig, view
from svdjax.report.numbers import decimal, ends, percent, significant
from svdjax.report.plot import Plot
from svdjax.report.section import Section
from svdjax.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from svdjax.probe.results import ProbeResults

_COLUMNS = ("model", "title", "entropy_last", "entropy_mean", "cka", "cka_last_block")


def probe_section(probes: ProbeResults, folder: pathlib.Path) -> Section:
    """Writes the table of a pair's probes; returns the section of its page.

    Args:
        probes: Results of the probes stage.
        folder: The pair's.
    """
    table = Table("probes", _COLUMNS, tuple(_rows(probes)))
    table.write(folder / "tables")
    caption = f"{_label(probes)}. {_TABLE}"
    first_order = _first_order(probes)
    if first_order:
        first_order.write(folder / "tables")
    return Section(
        lead=(
            f"{len(probes.titles)} models read {probes.count} prompts, and what went on inside "
            "was held against the original."
        ),
        findings=[("", line) for line in (*_findings(probes), *_first_order_finding(probes))],
        facts=[("prompts", probes.prompts), ("CKA", _kind(probes))],
        notes=list(probes.notes),
        tables=[
            view(table, "Inside the models", caption, _CELLS, text={"model"}),
            *(
                view(each, "First order in the weights", _LINEARISED, _ORDERS, text={"part of Δ"})
                for each in [first_order]
                if each
            ),
        ],
        plots=list(_plots(probes)),
        draw=[functools.partial(_figures, probes)],
        files=[table.name, *([first_order.name] if first_order else [])],
    )


def _rows(probes: ProbeResults) -> Iterator[dict[str, Any]]:
    for name, title in probes.titles.items():
        diagonal = np.diagonal(probes.cka[name])
        yield {
            "model": name,
            "title": title,
            "entropy_last": float(np.mean(probes.entropy[f"{name}/last"])),
            "entropy_mean": float(np.mean(probes.entropy[f"{name}/mean"])),
            "cka": probes.similarity(name),
            "cka_last_block": float(diagonal[-1]) if diagonal.size else math.nan,
        }


def _first_order(probes: ProbeResults) -> Table | None:
    """Post against base linearised, a row for each part of Δ and step; None if not asked for."""
    rows = probes.first_order()
    if not rows:
        return None
    named = [
        {"name": row["part"] if row["scale"] == 1 else f"{row['scale']:g} × {row['part']}", **row}
        for row in rows
    ]
    return Table("linearised", tuple(named[0]), tuple(named))


def _kind(probes: ProbeResults) -> str:
    estimate = "debiased" if probes.settings["debiased"] else "biased, as in the paper"
    samples = {
        "prompt": "a sample is a prompt, its tokens averaged: a choice of svdjax, where eq. 17 "
        "averages the prompts at each position (config.probes.samples=position)",
        "position": f"a sample is one of {probes.positions} positions, the prompts averaged, as "
        "eq. 17 has it",
    }
    return f"{estimate}; {samples[probes.settings['samples']]}"


def _label(probes: ProbeResults) -> str:
    return cka_label(probes.settings["samples"], probes.settings["debiased"])


def _findings(probes: ProbeResults) -> Iterator[str]:
    def last(name: str) -> float:
        return float(np.mean(probes.entropy[f"{name}/last"]))

    def three(value: float) -> str:
        return decimal(value, 3)

    for heading, members in by_group(probes.titles).items():
        names = [name for name in members if name != "post"]
        if not names:
            continue
        group = "Base model" if heading == "Originals" else heading
        yield (
            f"{group}: {_label(probes)} with the original "
            f"{ends(map(probes.similarity, names), three)}, mean over the blocks; attention "
            f"entropy of the last position {ends(map(last, names), three)} nats (original "
            f"{three(last('post'))})."
        )


def _first_order_finding(probes: ProbeResults) -> Iterator[str]:
    whole = next((r for r in probes.first_order() if (r["part"], r["scale"]) == ("all", 1)), None)
    if whole:
        yield (
            f"First order in the weights: {percent(whole['share'])} of the change of the logits "
            f"from base; KL from base linearised {significant(whole['kl_linearised'], 3)} nats per "
            f"token (from base {significant(whole['kl_base'], 3)})."
        )


def _groups(probes: ProbeResults) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Models that are drawn together: module, words on it, and their names in figures."""
    edited = probes.titles.keys() & VARIANTS.keys()
    modules = {"self_attn": ", edited in attention", "mlp": ", edited in the MLP"}
    for module, where in modules.items() if edited else (("all", ""),):
        yield module, where, {name: _title(name) for name in probes.titles if _edits(name, module)}


def _plots(probes: ProbeResults) -> Iterator[Plot]:
    for module, where, shown in _groups(probes):
        for kind, positions, paper in (
            ("last", "the last position", " (figs. 4b, 15 to 18)"),
            ("mean", "all positions", ""),
        ):
            title = f"Attention entropy of {positions}{where}{paper}"
            panel = _entropy({label: probes.entropy[f"{k}/{kind}"] for k, label in shown.items()})
            yield Plot(
                *(f"entropy_{kind}_{module}", title, _ENTROPY, "lines", [panel]),
                x="block",
                y="attention entropy, nats",
                options={"height": 300},
            )
        paper = {"prompt": "as figs. 6, 19, but over prompts", "position": "figs. 6, 19"}
        title = f"CKA with the original{where} ({paper[probes.settings['samples']]})"
        yield Plot(
            *(f"cka_{module}", title, f"{_label(probes)}. {_CKA}", "heat"),
            panels=[{"title": label, "values": probes.cka[k]} for k, label in shown.items()],
            x="block",
            y="block of the original",
            scale={"colours": "sequential", "low": 0.0, "high": 1.0, "label": "CKA"},
            options={"upwards": True, "square": True},
        )
    if probes.maps:
        yield from _map_plots(probes)


def _entropy(entropy: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean of the heads by block, of the first model with the range of its heads."""
    deepest = max(len(values) for values in entropy.values())
    series = []
    for i, (label, values) in enumerate(entropy.items()):
        heads = np.full((deepest, values.shape[1]), np.nan)
        heads[: len(values)] = np.where(np.isfinite(values), values, np.nan)
        line: dict[str, Any] = {"label": label, "y": heads.mean(axis=1)}
        if i == 0:
            band = {"low": heads.min(axis=1), "high": heads.max(axis=1)}
            series.append(line | band | {"strong": True, "colour": 11})
        else:
            series.append(line | {"colour": (i - 1) % 11, "dash": i > 11})
    return {
        "title": "",
        "x": list(range(deepest)),
        "labels": [str(block) for block in range(deepest)],
        "series": series,
        "zero": True,
    }


def _map_plots(probes: ProbeResults) -> Iterator[Plot]:
    """Attention to the first prompt in the middle block, and what differs from the original."""
    block = len(probes.maps["post"]) // 2
    maps = {name: np.asarray(stack[block], np.float64) for name, stack in probes.maps.items()}
    axes: dict[str, Any] = {"x": "attends to position", "y": "position"}
    options = {"triangle": True, "square": True, "wide": 260}
    most = max(float(np.nanmax(values, initial=2e-4)) for values in maps.values())
    yield Plot(
        *("attention", f"Attention to the first prompt in block {block} (fig. 4a)", _MAPS, "heat"),
        panels=[{"title": _title(name), "values": values} for name, values in maps.items()],
        scale={
            **{"colours": "sequential", "log": True, "low": 1e-4, "high": most},
            "label": "attention weight",
        },
        **axes,
        options=options,
    )
    changes = differences(maps, "post")
    if changes:
        title = f"Difference of attention from the original in block {block} (fig. 4a)"
        yield Plot(
            *("attention_difference", title, _CHANGES, "heat"),
            panels=[{"title": _title(name), "values": each} for name, each in changes.items()],
            scale={"colours": "diverging", "label": "difference of attention weight"},
            **axes,
            options=options,
        )


def _figures(probes: ProbeResults) -> Iterator[tuple[str, Figure]]:
    from svdjax.probe import figures

    for module, _, shown in _groups(probes):
        for kind in ("last", "mean"):
            entropy = {label: probes.entropy[f"{name}/{kind}"] for name, label in shown.items()}
            yield (
                f"entropy_{kind}_{module}",
                figures.entropy_curves(entropy, first=shown["post"]),
            )
        cka = {label: probes.cka[name] for name, label in shown.items()}
        yield f"cka_{module}", figures.cka_heatmaps(cka, first="the original")
    if probes.maps:
        block = len(probes.maps["post"]) // 2
        maps = {_title(name): stack[block] for name, stack in probes.maps.items()}
        yield "attention", figures.attention_maps(maps)
        changes = differences(maps, _title("post"))
        if changes:
            yield "attention_difference", figures.attention_differences(changes)


def _edits(name: str, module: str) -> bool:
    """Whether a model belongs among those edited in a module; the originals always do."""
    return name not in VARIANTS or VARIANTS[name].modules in (module, "all")


def _title(name: str) -> str:
    """A model's name in figures."""
    variant = VARIANTS.get(name)
    if variant is None:
        return {"post": "original", "base": "base model"}.get(name, name)
    recipe = variant.recipe
    if recipe.kind == "replaced":
        return f"replaced, eq. {recipe.number}"
    extra = ", other" if recipe.partner == "other" else f", {variant.signs}" * bool(variant.signs)
    return f"{recipe.kind} of {recipe.changes}{extra}"


_TABLE = (
    "Means over blocks and heads; entropy in nats. CKA with the same block of the original: 1 is "
    "the same, also where one side is rotated or scaled. With few prompts even unrelated models "
    "are well above 0."
)
_LINEARISED = (
    "The logits of base moved along Δ (all of it, a step, or the part in one module) against those "
    "that base's derivative predicts. Share of the change: 1 is a change that is linear in the "
    "weights, 0 is as good as base, below 0 worse. KL in nats per token, from base linearised and "
    "from base itself; likeliest: positions where their likeliest next token is that of the moved "
    "model; the text's: where it is the text's own next token."
)
_ORDERS = [
    ("part of Δ", plain("name")),
    ("share of the change", share("share")),
    ("KL, linearised", sig("kl_linearised")),
    ("KL, base", sig("kl_base")),
    ("likeliest, linearised", share("agree_linearised")),
    ("likeliest, base", share("agree_base")),
    ("the text's, linearised", share("right_linearised")),
    ("moved", share("right_post")),
]
_CELLS = [
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
