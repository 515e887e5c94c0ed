"""What of a decoder is compared, and what is missing or broken of that; no more matters."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from svdjax.checkpoint.canonical import DECODER, HEADS, text_config
from svdjax.checkpoint.config import ModelConfig, has_dense_layers
from svdjax.checkpoint.families import FAMILIES, Weight
from svdjax.checkpoint.files import INDEX, SINGLE
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.matching import BUFFERS, Fault, ranges
from svdjax.checkpoint.projection import Place
from svdjax.checkpoint.reader import Checkpoint

_TABLE: Mapping[str, Weight] = {
    weight.template: weight for family in FAMILIES.values() for weight in family.weights
}
_FUSED = {
    f"{DECODER}*.self_attn.qkv_proj.weight": tuple(
        f"{DECODER}*.self_attn.{part}_proj.weight" for part in "qkv"
    ),
    f"{DECODER}*.mlp.gate_up_proj.weight": tuple(
        f"{DECODER}*.mlp.{part}_proj.weight" for part in ("gate", "up")
    ),
}
_MOST_LAYERS = 10_000

Grid = dict[str, dict[int, dict[int | None, str]]]
"""Names of matrices of the decoder by template, layer and expert."""


def kind_of(checkpoint: Checkpoint) -> Any:
    """model_type of a checkpoint, or that of its text model where this one's family is known."""
    inner = text_config(checkpoint).get("model_type")
    outer = checkpoint.config.get("model_type")
    return (
        inner if outer not in FAMILIES and isinstance(inner, str) and inner in FAMILIES else outer
    )


def decoder_reason(
    name: str,
    place: Place,
    sides: Mapping[str, Checkpoint],
    configs: Mapping[str, ModelConfig],
) -> str:
    """Why a tensor of a decoder is not compared, by its name; empty where that does not tell."""
    if BUFFERS.search(name):
        return "buffer of the rotary embedding, follows from config.json"
    if name == "lm_head.weight":
        side = "post" if name in sides["post"] else "base"
        config = configs.get(side)
        tied = text_config(sides[side]).get("tie_word_embeddings")
        if config.tie_word_embeddings if config else tied is True:
            return "output head, tied to the embedding by config.json"
    weight = _TABLE.get(place.template)
    if weight is not None:
        return "" if weight.analysed else _reason(weight)
    if name.partition(".")[0] in HEADS:
        return "head of another use"
    if name.endswith("bias") and place.template.startswith(f"{DECODER}*."):
        return "bias: no matrix"
    return ""


def _reason(weight: Weight) -> str:
    """Why a weight of the name tables is not analysed."""
    if weight.path.endswith("/bias"):
        return "bias: a vector"
    if weight.path.endswith("/scale"):
        return "norm: a vector"
    if weight.shape[0] == "1":
        return "gate of the shared expert: a vector"
    return "embedding" if weight.path.startswith("embed_tokens") else "output head"


def find_faults(
    sides: Mapping[str, Checkpoint],
    configs: Mapping[str, ModelConfig],
    where: Mapping[str, Place],
) -> tuple[list[Fault], list[str]]:
    """Faults of what is compared of decoders, and notes on what config.json says otherwise.

    A checkpoint is incomplete where it lacks a matrix in some layers only: one that its family has
    in all, or the other side in these.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    grids = {side: _grid(checkpoint, where) for side, checkpoint in sides.items()}
    for (side, checkpoint), other in zip(sides.items(), ("post", "base")):
        if not grids[side]:
            continue
        own: list[Fault] = []
        own += _missing(checkpoint, grids[side], configs.get(side))
        told = {fault.name for fault in own}
        beside = _missing_beside(checkpoint, grids[side], grids[other], other)
        own += [fault for fault in beside if fault.name not in told]
        if side in configs:
            wrong, more = _misshapen(checkpoint, grids[side], configs[side])
            own += wrong + _not_floats(checkpoint, grids[side])
            notes += more
        stray = checkpoint.files == (SINGLE,) and os.path.lexists(checkpoint.path / INDEX)
        if own and stray:
            text = (
                f"{checkpoint.path / SINGLE} is what is read, and the shards of {INDEX} lie beside "
                "it: remove it if they are the model"
            )
            own.insert(0, Fault("", text))
        faults += [Fault(name, f"{side}: {text}") for name, text in own]
    return faults, notes


def expert_notes(sides: Mapping[str, Checkpoint], where: Mapping[str, Place]) -> list[str]:
    """Note that the sides have not the same experts, where they have not."""
    base, post = (
        {expert for name in side.names if (expert := where[name].expert) is not None}
        for side in sides.values()
    )
    if base == post or not base & post:
        return []
    return [
        f"base has experts {ranges(base)} and post {ranges(post)}: those of one number are "
        "compared, which are others where some were taken out and the rest numbered anew"
    ]


def _grid(checkpoint: Checkpoint, where: Mapping[str, Place]) -> Grid:
    """Matrices of the decoder that are compared where the other side has them."""
    grid: Grid = {}
    for name in checkpoint.names:
        template, layer, expert = where[name]
        if layer is None or not template.startswith(f"{DECODER}*.") or name.endswith("bias"):
            continue
        weight = _TABLE.get(template)
        if weight.analysed if weight else len(checkpoint.spec(name).shape) == 2:
            grid.setdefault(template, {}).setdefault(layer, {})[expert] = name
    return grid


def _missing(checkpoint: Checkpoint, grid: Grid, config: ModelConfig | None) -> list[Fault]:
    """Matrices that the family has in every layer, and whole layers, that a side has not."""
    present = set().union(*(by_layer.keys() for by_layer in grid.values()))
    stated = config.num_layers if config else text_config(checkpoint).get("num_hidden_layers")
    stated = stated if type(stated) is int and 0 < stated <= _MOST_LAYERS else 0
    layers = range(max(stated, *(number + 1 for number in present)))
    if config is None:
        if not (absent := set(range(stated)) - present):
            return []
        text = (
            f"layers {ranges(absent)} are missing from {checkpoint.listing}, as config.json says "
            f"that num_hidden_layers is {stated}"
        )
        return [Fault("", text)]
    table = {
        weight.template: weight
        for weight in FAMILIES[config.family].present(config)
        if weight.analysed
    }
    there = table.keys() & grid.keys()
    wanted = {template for template in grid if template in _TABLE}
    if 2 * len(there) >= len(table):
        wanted |= table.keys() - _written_otherwise(grid)
    if has_dense_layers(text_config(checkpoint)):
        wanted = {template for template in wanted if f"{DECODER}*.mlp." not in template}
    faults = []
    for template in [name for name in (*table, *sorted(wanted)) if name in wanted]:
        text = f"tensor {{name}} is missing from {checkpoint.listing}"
        if template in table:
            text += f", expected shape {table[template].stored_shape(config)}"
        faults += [
            Fault(template.replace("*", str(layer), 1), text)
            for layer in layers
            if layer not in grid.get(template, {})
        ]
    return list(dict.fromkeys(faults))


def _written_otherwise(grid: Grid) -> set[str]:
    """Templates whose matrices are there as parts, or fused."""
    names: set[str] = set()
    for fused, parts in _FUSED.items():
        if fused in grid:
            names.update(parts)
        if any(part in grid for part in parts):
            names.add(fused)
    return names


def _missing_beside(checkpoint: Checkpoint, grid: Grid, other: Grid, side: str) -> list[Fault]:
    """Matrices that the other side has in a layer and this one only in others.

    Layers of models of different depth are not known to be the same; experts that are in no layer
    have been taken out on purpose.
    """
    numbers = [set().union(*(each.keys() for each in one.values())) for one in (grid, other)]
    if numbers[0] != numbers[1]:
        return []
    text = f"tensor {{name}} is missing from {checkpoint.listing}, {side} has it"
    faults = []
    for template in sorted(grid.keys() & other.keys()):
        mine, theirs = grid[template], other[template]
        faults += [
            Fault(theirs[layer][min(theirs[layer], key=str)], text)
            for layer in sorted(theirs.keys() - mine.keys())
        ]
        lacking = {n: theirs[n].keys() - mine[n].keys() for n in mine.keys() & theirs.keys()}
        if len({frozenset(each) for each in lacking.values()}) > 1:
            faults += [
                Fault(theirs[layer][expert], text)
                for layer in sorted(lacking)
                for expert in sorted(lacking[layer], key=str)
            ]
    return faults


def _misshapen(
    checkpoint: Checkpoint, grid: Grid, config: ModelConfig
) -> tuple[list[Fault], list[str]]:
    """Matrices of another shape than in other layers, and notes where config.json is alone."""
    table = {weight.template: weight for weight in FAMILIES[config.family].weights}
    faults, notes = [], []
    for template in sorted(grid.keys() & _TABLE.keys(), key=list(_TABLE).index):
        shapes = {
            name: checkpoint.spec(name).shape
            for by_expert in grid[template].values()
            for name in by_expert.values()
        }
        stated = table[template].stored_shape(config) if template in table else None
        common = collections.Counter(shapes.values()).most_common(1)[0][0]
        expected = stated if stated in shapes.values() else common
        for name, shape in shapes.items():
            if shape != expected:
                told = "by config.json" if expected == stated else "as in other layers"
                file = checkpoint.where(name)
                text = f"tensor {{name}} in {file} has shape {shape}, expected {expected} {told}"
                faults.append(Fault(name, text))
        if stated is not None and expected != stated:
            notes.append(
                f"{checkpoint.home / 'config.json'}: {template} would be {stated} by it and is "
                f"{expected}: compared as stored, the decoder cannot run {checkpoint.path}"
            )
    return faults, notes


def _not_floats(checkpoint: Checkpoint, grid: Grid) -> list[Fault]:
    """Matrices that are no floats, one fault for each dtype."""
    names: dict[np.dtype, list[str]] = {}
    for name in _names(grid):
        if (dtype := checkpoint.spec(name).dtype) not in FLOATS:
            names.setdefault(dtype, []).append(name)
    faults = []
    for dtype, found in names.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        where = checkpoint.where(found[0])
        text = f"tensor {{name}}{more} in {where} is {dtype}, expected bf16, f16 or f32"
        faults.append(Fault(found[0], text))
    return faults


def _names(grid: Grid) -> Iterable[str]:
    """Yields the matrices of the name tables."""
    for template in sorted(grid.keys() & _TABLE.keys()):
        for by_expert in grid[template].values():
            yield from by_expert.values()
