"""What edits cost, from the pieces of `tools.studies.survival`: KL by size, share, control."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.studies.survival_averages import (
    VARIANTS,
    Cells,
    geometric,
    mean,
    over_seeds,
    ratio,
    short,
    slope,
    variant,
)
from tools.studies.survival_edits import RESTORATIONS
from tools.studies.survival_pieces import MODULES, Settings

ABLATIONS = tuple(itertools.product(("ablated", "ablated_aligned"), MODULES))


def damage(seeds: Sequence[Any]) -> dict[str, Any]:
    """Edits by side and module, and ratios of KL over all four of them."""
    told: dict[str, Any] = {}
    for edit in VARIANTS:
        rows = [variant(seed, edit) for seed in seeds]
        told["_".join(edit)] = {
            "change": mean(row["change"] for row in rows),
            "removed": mean(1 - row["share"] for row in rows),
            "kl": geometric(row["kl"] for row in rows),
            "accuracy": mean(row["accuracy"] for row in rows),
            "noise": geometric(row["kl"] / row["noise"]["kl"] for row in rows),
            "interpolated": geometric(row["kl"] / row["interpolated"]["kl"] for row in rows),
            "same_share": geometric(row["kl"] / row["same_share"]["kl"] for row in rows),
        }

    def pooled(seed: Any, kind: str) -> float:
        rows = (variant(seed, each) for each in VARIANTS)
        return geometric(row["kl"] / row[kind]["kl"] for row in rows)

    for kind in ("noise", "interpolated", "same_share"):
        told[kind] = ratio(pooled(seed, kind) for seed in seeds)
    return told


def ablations(seeds: Sequence[Any]) -> dict[str, Any]:
    """Ablations beside noise of their size and beside reverting."""
    told = {}
    for edit in ABLATIONS:
        rows = [variant(seed, edit) for seed in seeds]
        whole = [seed["modules"][edit[1]]["reverted"]["kl"] for seed in seeds]
        told["_".join(edit)] = {
            "change": mean(row["change"] for row in rows),
            "noise": ratio(row["kl"] / row["noise"]["kl"] for row in rows),
            "reverted": geometric(row["kl"] / each for row, each in zip(rows, whole)),
        }

    def whole_part(seed: Any) -> float:
        """KL over that of reverting, both modules together."""
        modules = seed["modules"].values()
        return geometric(each["ablated_aligned"]["kl"] / each["reverted"]["kl"] for each in modules)

    told["aligned_reverted"] = ratio(whole_part(seed) for seed in seeds)
    return told


def path(seeds: Sequence[Any]) -> dict[str, Any]:
    """Exponents of KL in the size of the change, along one edit of one model."""
    kinds = ("noise", "restoration", "straight")

    def exponent(seed: Any, kind: str) -> float:
        lines = [seed["path"][module][kind] for module in MODULES]
        return float(
            np.mean(
                [slope([p["change"] for p in line], [p["kl"] for p in line])[0] for line in lines]
            )
        )

    return {kind: over_seeds(seeds, lambda s: exponent(s, kind)) for kind in kinds}  # noqa: B023


def exponents(settings: Settings, width: str, cells: Cells) -> dict[str, Any]:
    """Exponents of KL in the size of the change, across models of growing Δ."""

    def exponent(seed: int, kind: str) -> float:
        slopes = []
        for edit in VARIANTS:
            rows = [variant(cells[f"{width}/{i}"][seed], edit) for i in range(len(settings.peaks))]
            points = [row if kind == "restoration" else row[kind] for row in rows]
            slopes.append(slope([p["change"] for p in points], [p["kl"] for p in points])[0])
        return float(np.mean(slopes))

    kinds = ("noise", "restoration", "interpolated")
    seeds = range(len(settings.seeds))
    return {kind: short([exponent(seed, kind) for seed in seeds]) for kind in kinds}


def follows(settings: Settings, widths: Sequence[str], cells: Cells) -> dict[str, Any]:
    """Whether damage (KL over that of reverting) follows the share that is taken away, by seed."""
    names = [f"{width}/{i}" for width in widths for i in range(len(settings.peaks))]

    def rows(seed: int) -> list[dict[str, float]]:
        made = []
        for cell, edit in itertools.product(names, VARIANTS):
            row = variant(cells[cell][seed], edit)
            whole = cells[cell][seed]["modules"][edit[1]]["reverted"]["kl"]
            made.append(
                {
                    "removed": 1 - row["share"],
                    "kl": row["kl"] / whole,
                    "change": row["change"],
                    "same_share": row["same_share"]["kl"] / whole,
                    "ratio": row["kl"] / row["same_share"]["kl"],
                }
            )
        return made

    def worse_side(seed: int, module: str) -> float:
        """Share of models where the side that takes more of Δ away costs more."""
        right = []
        for cell in names:
            v, u = (variant(cells[cell][seed], (side, module)) for side in RESTORATIONS)
            right.append((v["share"] < u["share"]) == (v["kl"] > u["kl"]))
        return float(np.mean(right))

    data = [rows(seed) for seed in range(len(settings.seeds))]

    def fit(x: str, y: str, number: int) -> dict[str, float]:
        return short([slope([r[x] for r in each], [r[y] for r in each])[number] for each in data])

    return {
        "exponent": fit("removed", "kl", 0),
        "explained": fit("removed", "kl", 1),
        "explained_by_size": fit("change", "kl", 1),
        "explained_by_same_share": fit("same_share", "kl", 1),
        "ratio": ratio(geometric(row["ratio"] for row in each) for each in data),
        "worse_side": {
            module: short([worse_side(seed, module) for seed in range(len(settings.seeds))])
            for module in MODULES
        },
    }
