"""From the pieces of `tools.studies.survival` to its figures: means over seeds and intervals.

Keys of the figures are ``64`` for widths and ``64/0`` for cells, see `Cells`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tools.studies import survival_costs as costs
from tools.studies.matrices import PROJECTIONS
from tools.studies.survival_averages import (
    VARIANTS,
    Cells,
    geometric,
    mean,
    over_seeds,
    ratio,
    short,
    variant,
)
from tools.studies.survival_edits import RESTORATIONS
from tools.studies.survival_pieces import MODULES, Settings


def figures(
    settings: Settings,
    bases: Mapping[str, Any],
    cells: Cells,
) -> dict[str, Any]:
    """All figures of the page."""
    names = [str(width) for width in settings.widths]
    # The learning rate whose pieces hold paths and ladders.
    highest = settings.peaks.index(max(settings.peaks))
    largest = {width: cells[f"{width}/{highest}"] for width in names}
    return {
        "bases": bases,
        "cells": {cell: _cell(seeds) for cell, seeds in cells.items()},
        "damage": {cell: costs.damage(seeds) for cell, seeds in cells.items()},
        "ablations": {cell: costs.ablations(seeds) for cell, seeds in cells.items()},
        "law": {cell: _law(seeds) for cell, seeds in cells.items()},
        "projections": {
            width: _projections(cells[f"{width}/{_middle(settings)}"]) for width in names
        },
        "planted": {cell: _planted(seeds) for cell, seeds in cells.items()},
        "sizes": list(settings.ladder),
        "ladder": {width: _ladder(seeds) for width, seeds in largest.items()},
        "path": {width: costs.path(seeds) for width, seeds in largest.items()},
        "exponents": {width: costs.exponents(settings, width, cells) for width in names},
        "follows": {
            name: costs.follows(settings, names_, cells) for name, names_ in _groups(names)
        },
    }


def _middle(settings: Settings) -> int:
    return len(settings.peaks) // 2


def _groups(names: list[str]) -> list[tuple[str, list[str]]]:
    return [("all", names), *((name, [name]) for name in names)]


def _cell(seeds: Sequence[Any]) -> dict[str, Any]:
    return {
        "size": short([seed["size"] for seed in seeds]),
        "accuracy": short([seed["accuracy"] for seed in seeds]),
        "loss": mean(seed["loss"] for seed in seeds),
        "base_loss": seeds[0]["base_loss"],
        "base_accuracy": seeds[0]["base_accuracy"],
    }


def _both(shares: Any) -> list[float]:
    """Sums of the two sides' shares, by projection."""
    return [shares["V"][name] + shares["U"][name] for name in PROJECTIONS]


def _off(shares: Any, law: Any) -> list[float]:
    return [shares[side][name] - law[side][name] for side in RESTORATIONS for name in PROJECTIONS]


def _law(seeds: Sequence[Any]) -> dict[str, Any]:
    """How far shares are off the law, and what first order says that they are off by."""

    def error(shares: Any, law: Any) -> float:
        return float(np.mean(np.abs(_off(shares, law))))

    def rotation(seed: Any) -> float:
        return float(np.mean([seed["first_order"]["rotation"][name] for name in PROJECTIONS]))

    def std(seed: Any) -> float:
        each = np.array([seed["first_order"]["rotation_std"][name] for name in PROJECTIONS])
        return float(np.sqrt(np.sum(each**2)) / len(each))

    return {
        "off": over_seeds(seeds, lambda s: error(s["shares"], s["law"])),
        "off_gaussian": over_seeds(
            seeds, lambda s: error(s["planted"]["gaussian"]["shares"], s["law"])
        ),
        "off_first_order": over_seeds(seeds, lambda s: error(s["shares"], s["first_order"])),
        "sum": over_seeds(seeds, lambda s: np.mean(_both(s["shares"]))),
        "diagonal": mean(s["first_order"]["diagonal"][n] for s in seeds for n in PROJECTIONS),
        "rotation": over_seeds(seeds, rotation),
        "rotation_std": mean(std(seed) for seed in seeds),
    }


def _projections(seeds: Sequence[Any]) -> dict[str, Any]:
    return {name: _projection(seeds, name) for name in PROJECTIONS}


def _projection(seeds: Sequence[Any], name: str) -> dict[str, Any]:
    shares = {side: [seed["shares"][side][name] for seed in seeds] for side in RESTORATIONS}
    return {
        **{side: mean(each) for side, each in shares.items()},
        **{f"law_{side}": seeds[0]["law"][side][name] for side in RESTORATIONS},
        "sum": short([sum(each) for each in zip(*shares.values())]),
    }


def _planted(seeds: Sequence[Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for kind in ("gaussian", "rotation", "opposite"):
        planted = [seed["planted"][kind] for seed in seeds]
        told[kind] = {
            "sum": over_seeds(planted, lambda each: np.mean(_both(each["shares"]))),
        }
        if kind != "opposite":
            told[kind]["reverted"] = geometric(
                each["modules"][name]["reverted"]["kl"] for each in planted for name in MODULES
            )
    told["rotation"]["kl"] = max(
        variant(seed["planted"]["rotation"], each)["kl"] for seed in seeds for each in VARIANTS
    )
    for kind in ("noise", "same_share"):
        told["gaussian"][kind] = ratio(
            geometric(
                row["kl"] / row[kind]["kl"]
                for row in (variant(seed["planted"]["gaussian"], each) for each in VARIANTS)
            )
            for seed in seeds
        )
    return told


def _ladder(seeds: Sequence[Any]) -> dict[str, Any]:
    """Shares along the sizes: of Gaussian changes over the law, of trained ones over the first."""

    def part(row: Any, whole: Any) -> float:
        return float(
            np.mean([row[side][n] / whole[side][n] for side in RESTORATIONS for n in PROJECTIONS])
        )

    law = seeds[0]["law"]
    ladders = [seed["ladder"] for seed in seeds]
    steps = range(len(ladders[0]["gaussian"]))
    return {
        "gaussian": [over_seeds(ladders, lambda s: part(s["gaussian"][i], law)) for i in steps],  # noqa: B023
        "trained": [mean(part(s["trained"][i], s["trained"][0]) for s in ladders) for i in steps],
        "sum": [mean(np.mean(_both(s["gaussian"][i])) for s in ladders) for i in steps],
    }
