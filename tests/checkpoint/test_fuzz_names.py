"""Tensors of any names and shapes: a plan that can be read, or one line."""

from __future__ import annotations

import pathlib
import random

import numpy as np
import pytest

from svdjax.checkpoint import open_checkpoint, plan_pair, read_stack
from svdjax.errors import InputError
from tests.support import held

_PREFIXES = ("model.", "", "_orig_mod.model.", "model.language_model.", "x.")
_ROLES = (
    *(f"self_attn.{part}_proj.weight" for part in ("q", "k", "v", "qkv", "o")),
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down", "gate_up")),
    *(f"mlp.experts.{part}" for part in ("gate_up_proj", "down_proj", "gate_up_proj_bias")),
    *("mlp.experts.1.up_proj.weight", "block_sparse_moe.experts.0.w1.weight", "mlp.gate.weight"),
    *("block_sparse_moe.input_linear.weight", "input_layernorm.weight"),
)
_WORDS = ("model", "h", "0", "1", "07", "experts", "weight", "bias", "", "*", "{}", "score", "mlp")
_KINDS = ("llama", "phi3", "mixtral", "gpt_oss", "odd", "odd", "odd", None)


def tensors(draw: random.Random, base: held.Tensors) -> held.Tensors:
    """Tensors of a side: some of the other one's, some of its own, perhaps under a prefix."""
    made = {name: value for name, value in base.items() if draw.random() < 0.9}
    for _ in range(draw.randint(1, 3 if base else 25)):
        name = ".".join(draw.choice(_WORDS) for _ in range(draw.randint(2, 6)))
        if draw.random() < 0.7:
            prefix, role = draw.choice(_PREFIXES), draw.choice(_ROLES)
            name = f"{prefix}layers.{draw.randint(0, 3)}.{role}"
        shape = [draw.choice((2, 4, 4, 8, 8, 6, 0)) for _ in range(draw.choice((1, 2, 2, 3, 4, 0)))]
        made[name] = np.full(shape, draw.random(), np.float32)
    prefix = draw.choice(("", "", "transformer.", "_orig_mod."))
    return {f"{prefix}{name}": value for name, value in made.items()}


@pytest.mark.parametrize("seed", range(4))
def test_any_two_sides(seed: int, tmp_path: pathlib.Path) -> None:
    draw, planned, refusals = random.Random(seed), 0, list[str]()
    for number in range(60):
        base: held.Tensors = {}
        sides = []
        for side in ("base", "post"):
            base = tensors(draw, base)
            config = {"model_type": draw.choice(_KINDS), "hidden_size": draw.choice((4, 8))}
            config["num_hidden_layers"] = draw.choice((1, 4))
            sides.append(held.write(tmp_path / f"{side}{number}", config, base))
        try:
            opened = [open_checkpoint(path) for path in sides]
            plan = plan_pair(opened[0], opened[1], split_fused=draw.random() < 0.5)
        except InputError as error:
            refusals.append(str(error))
            continue
        planned += 1
        names = [each.name for each in plan.projections]
        assert len(set(names)) == len(names)
        for each in plan.projections:
            for checkpoint in (plan.base, plan.post):
                stack = read_stack(checkpoint, each, 0, len(each.tensors))
                assert stack.shape == (len(each.tensors), *each.shape)
    assert planned > 1
    assert not any("\n" in text for text in refusals)
