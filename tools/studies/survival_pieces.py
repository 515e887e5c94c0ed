"""The pieces of `tools.studies.survival`: what is measured of one model, as plain numbers."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from svdjax.construct.tree import chosen_paths, replaced_leaves
from svdjax.reference import path, text_path
from svdjax.text.texts import read_texts, tokenise
from tools.studies import survival_models as models
from tools.studies.survival_edits import RESTORATIONS, Judge, Pair, Stacks
from tools.studies.survival_law import change_of
from tools.studies.survival_planted import gaussian, rotated
from tools.studies.survival_shares import first_orders, ladder, law, restored, shares

MODULES = ("self_attn", "mlp")
SALT = 10_000
"""Of pre-training text that training did not draw."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained and measured.

    Attributes:
        training: How.
        widths: Hidden sizes.
        peaks: Highest learning rates of fine-tuning: they give the sizes of Δ.
        seeds: Of fine-tuning, noise and planted changes.
        text_step: Every so many texts of the held-out ones are looked at.
        text_rows: Sequences of held-out pre-training text, for planted changes.
        fractions: Of a whole edit, along which the KL is followed.
        ladder: Sizes of Δ, relative to W_base, at which the law is tried.
    """

    training: models.Training = dataclasses.field(default_factory=models.Training)
    widths: tuple[int, ...] = (32, 64, 128)
    peaks: tuple[float, ...] = (1.5e-5, 6e-5, 2e-4, 6e-4, 2e-3, 4e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    text_step: int = 2
    text_rows: int = 4
    fractions: tuple[float, ...] = (0.03, 0.1, 0.3)
    ladder: tuple[float, ...] = (0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Item:
    """One piece: a width, a seed, a learning rate, and where models are kept."""

    settings: Settings
    folder: pathlib.Path
    width: int
    seed: int = 0
    peak: float = 0.0

    @property
    def base(self) -> models.Model:
        """The base of the width."""
        return models.base(self.settings.training, self.width, self.folder)

    def tuned(self, base: models.Model) -> models.Model:
        """The fine-tuned model."""
        return models.tuned(self.settings.training, base, self.peak, self.seed)

    def rng(self, use: str) -> np.random.Generator:
        """A generator of this piece's own for one use."""
        return np.random.default_rng([self.width, self.seed, int(1e6 * self.peak), *use.encode()])


def measure_base(item: Item) -> dict[str, float]:
    """The base of a width: trained, and its loss on text that training did not draw."""
    base = item.base
    recipe = models.base_recipe(item.settings.training)
    judged = Judge(base.params, base.config, *recipe.batch(base.tokenizer, 0, salt=SALT))(
        base.params
    )
    return {"loss": judged.loss, "accuracy": judged.accuracy}


def held_out(model: models.Model, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The held-out text of `instruct`, [B, T + 1] tokens, and what counts, [B, T]."""
    file = text_path("instruct")
    rows = tokenise(read_texts(file)[::step], path("instruct"), model.config, str(file))
    longest = max(map(len, rows.tokens))
    tokens = np.zeros((len(rows.tokens), longest), np.int32)
    weights = np.zeros((len(rows.tokens), longest - 1), np.float32)
    for line, (row, counted) in enumerate(zip(rows.tokens, rows.weights)):
        tokens[line, : len(row)], weights[line, : len(counted)] = row, counted
    return tokens, weights


def measure_tuned(item: Item) -> dict[str, Any]:
    """A fine-tuned model: all edits of either module, and planted changes of the same sizes.

    Of the highest learning rate also KL along the way to an edit, and shares along sizes of Δ.
    """
    base = item.base
    model = item.tuned(base)
    judge = Judge(model.params, model.config, *held_out(model, item.settings.text_step))
    pair = Pair(base.params, model.params, item.seed)
    original, before = judge(model.params), judge(base.params)
    sides = restored(pair)
    farther: dict[str, Any] = {}
    if item.peak == max(item.settings.peaks):
        farther = {
            "path": _path(pair, judge, item.settings.fractions),
            "ladder": ladder(pair, item.settings.ladder, item.rng),
        }
    return {
        **farther,
        "size": pair.size("all"),
        "loss": original.loss,
        "accuracy": original.accuracy,
        "base_loss": before.loss,
        "base_accuracy": before.accuracy,
        "shares": shares(sides),
        "law": law(pair),
        "first_order": first_orders(pair),
        "modules": {name: _module(pair, judge, name, sides) for name in MODULES},
        "planted": _planted(item, base, pair),
    }


def _module(pair: Pair, judge: Judge, modules: str, sides: Mapping[str, Stacks]) -> dict[str, Any]:
    edits = {
        **{side: pair.within(edit, modules) for side, edit in sides.items()},
        "ablated": pair.construct("eq10", modules, "raw"),
        "ablated_aligned": pair.construct("eq10", modules, "aligned"),
    }
    told: dict[str, Any] = {"size": pair.size(modules)}
    told["reverted"] = _told(pair, judge, pair.revert(modules))
    for name, edit in edits.items():
        told[name] = _told(pair, judge, edit)
        # Base is nearer to post than an ablated matrix is: reverting stands for base + sΔ there.
        for kind in ("noise", "interpolated") if name in RESTORATIONS else ("noise",):
            control = pair.control(kind, modules, edit.change)
            told[name][kind] = _told(pair, judge, control)
        if name in RESTORATIONS:
            told[name]["law"] = pair.law(RESTORATIONS[name], modules)
            told[name]["same_share"] = _told(pair, judge, pair.keep_share(edit.share))
    return told


def _told(pair: Pair, judge: Judge, edit: Stacks) -> dict[str, Any]:
    judged = judge(pair.edited(edit))
    return {**pair.told(edit), "kl": judged.kl, "accuracy": judged.accuracy}


def _planted(item: Item, base: models.Model, pair: Pair) -> dict[str, Any]:
    """Changes of known truth, as large in each matrix as what fine-tuning made of it."""
    recipe = models.base_recipe(item.settings.training)
    batch = recipe.batch(base.tokenizer, 1, salt=SALT)
    tokens, weights = (each[: item.settings.text_rows] for each in batch)
    made = {}
    for kind, plant in (
        ("gaussian", gaussian),
        ("rotation", rotated),
        ("opposite", lambda w, size, rng: rotated(w, size, rng, sign=-1)),
    ):
        rng, new = item.rng(kind), {}
        for leaf in chosen_paths(pair.post, "all"):
            start, end = pair.stacks(leaf)
            new[leaf] = plant(start, np.linalg.norm(change_of(start, end), axis=(1, 2)), rng)
        planted = Pair(base.params, replaced_leaves(base.params, new), item.seed)
        sides = restored(planted)
        told: dict[str, Any] = {"size": planted.size("all"), "shares": shares(sides)}
        if kind != "opposite":
            judge = Judge(planted.post, base.config, tokens, weights)
            told["modules"] = {
                name: _planted_module(planted, judge, name, sides, controls=kind == "gaussian")
                for name in MODULES
            }
        made[kind] = told
    return made


def _planted_module(
    pair: Pair, judge: Judge, modules: str, sides: Mapping[str, Stacks], *, controls: bool
) -> dict[str, Any]:
    told: dict[str, Any] = {"reverted": _told(pair, judge, pair.revert(modules))}
    for side, whole in sides.items():
        edit = pair.within(whole, modules)
        told[side] = _told(pair, judge, edit)
        if controls:  # A restoration of a common rotation changes nothing: no distance to match.
            noise = pair.control("noise", modules, edit.change)
            told[side]["noise"] = _told(pair, judge, noise)
            told[side]["same_share"] = _told(pair, judge, pair.keep_share(edit.share))
    return told


def _path(pair: Pair, judge: Judge, fractions: tuple[float, ...]) -> dict[str, Any]:
    """KL along the way to an edit: noise, a restoration, base + sΔ, all of one length."""
    told: dict[str, Any] = {}
    for modules in MODULES:
        edit = pair.construct(RESTORATIONS["V"], modules)
        ends = {
            "restoration": edit,
            "noise": pair.control("noise", modules, edit.change),
            "straight": pair.control("interpolated", modules, edit.change),
        }
        told[modules] = {
            kind: [
                {"change": pair.told(part)["change"], "kl": judge(pair.edited(part)).kl}
                for part in (pair.part(end, each) for each in fractions)
            ]
            for kind, end in ends.items()
        }
    return told
