"""Tiny checkpoints as people hold them: wrapped, renamed, with experts, of another depth.

All of them are made from the tensors of a family (`tests.support.tiny`), in float32 so that equal
values are equal bits.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from svdjax.checkpoint import PairPlan, open_checkpoint, plan_pair, read_stack
from tests.support import tiny

Tensors = dict[str, np.ndarray]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 40}


def model(family: str = "llama", **changes: Any) -> tuple[dict[str, Any], Tensors]:
    """config.json and tensors of a family's model."""
    config = tiny.tiny_config(family, **{**SIZES, "torch_dtype": "float32", **changes})
    return config, tiny.random_tensors(config, dtype="float32")


def moved(tensors: Tensors, seed: int = 1) -> Tensors:
    """A post model: every matrix moves a little."""
    rng = np.random.default_rng(seed)
    return {
        name: value + 0.02 * rng.standard_normal(value.shape).astype(np.float32)
        if value.ndim > 1 and value.dtype == np.float32
        else value
        for name, value in tensors.items()
    }


def renamed(tensors: Tensors, rename: Callable[[str], str]) -> Tensors:
    """The tensors under other names."""
    return {rename(name): value for name, value in tensors.items()}


def relayered(tensors: Tensors, order: Iterable[int]) -> Tensors:
    """A model whose layers are some of a model's, in this order; each may occur again."""
    layers = list(order)
    ends = {name: value for name, value in tensors.items() if ".layers." not in name}
    for number, source in enumerate(layers):
        ends |= {
            name.replace(f".layers.{source}.", f".layers.{number}."): value
            for name, value in tensors.items()
            if f".layers.{source}." in name
        }
    return ends


def experts(tensors: Tensors, count: int, width: int, seed: int = 3) -> Tensors:
    """The model with experts in the place of its feed-forward parts, as qwen3_moe has them."""
    rng = np.random.default_rng(seed)
    mixed = {name: value for name, value in tensors.items() if ".mlp." not in name}
    hidden = tensors["model.norm.weight"].shape[0]
    layers = {name.split(".")[2] for name in tensors if ".layers." in name}
    for prefix in sorted(f"model.layers.{layer}.mlp." for layer in layers):
        mixed[f"{prefix}gate.weight"] = rng.standard_normal((count, hidden)).astype(np.float32)
        for expert in range(count):
            for role in ("gate_proj", "up_proj", "down_proj"):
                shape = (hidden, width) if role == "down_proj" else (width, hidden)
                value = rng.standard_normal(shape).astype(np.float32) / 4
                mixed[f"{prefix}experts.{expert}.{role}.weight"] = value
    return mixed


def fused(tensors: Tensors, layout: str) -> Tensors:
    """Experts of `experts` in one tensor: as transformers 5 ("out"), llama4 ("in"), gpt_oss."""
    rest = {name: value for name, value in tensors.items() if ".experts." not in name}
    stacks: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)\.weight", name)
        if match:
            stacks.setdefault(match[1], {}).setdefault(match[3], {})[int(match[2])] = value
    for prefix, roles in stacks.items():
        gate, up, down = (
            np.stack([roles[role][expert] for expert in sorted(roles[role])])
            for role in ("gate_proj", "up_proj", "down_proj")
        )
        both = np.concatenate([gate, up], 1)
        if layout == "gpt_oss":
            both = np.stack([gate, up], 2).reshape(both.shape)
        if layout != "out":
            both, down = both.transpose(0, 2, 1), down.transpose(0, 2, 1)
        rest[f"{prefix}.gate_up_proj"] = np.ascontiguousarray(both)
        rest[f"{prefix}.down_proj"] = np.ascontiguousarray(down)
    return rest


def mixtral(tensors: Tensors) -> Tensors:
    """Experts of `experts` under mixtral's names."""
    roles = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

    def rename(name: str) -> str:
        name = name.replace(".mlp.", ".block_sparse_moe.")
        return re.sub(r"(experts\.\d+\.)(\w+)", lambda match: match[1] + roles[match[2]], name)

    return renamed(tensors, rename)


def fused_dense(tensors: Tensors) -> Tensors:
    """A llama as phi3 has it: q, k, v in one tensor, gate and up in one."""
    made = dict(tensors)
    for name in tensors:
        for parts, one in (
            (("q_proj", "k_proj", "v_proj"), "qkv_proj"),
            (("gate_proj", "up_proj"), "gate_up_proj"),
        ):
            if f".{parts[0]}.weight" in name:
                names = [name.replace(parts[0], part) for part in parts]
                made[name.replace(parts[0], one)] = np.concatenate([made.pop(n) for n in names])
    return made


def write(
    directory: pathlib.Path, config: dict[str, Any], tensors: Tensors, *, shards: int = 1
) -> pathlib.Path:
    """Writes a checkpoint."""
    contiguous = {name: value.copy(order="C") for name, value in tensors.items()}
    return tiny.write_checkpoint(directory, config, contiguous, shards=shards)


def plan_of(base: pathlib.Path, post: pathlib.Path, **options: Any) -> PairPlan:
    plan = plan_pair(open_checkpoint(base), open_checkpoint(post), **options)
    assert {name for each in plan.projections for name in each.tensors} == set(
        plan.coverage["analysed"]
    )
    assert json.loads(json.dumps(plan.coverage)) == plan.coverage
    return plan


def stacks(plan: PairPlan) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Matrices of both sides by projection, [L or L E, in, out]."""
    return {
        each.name: (
            read_stack(plan.base, each, 0, len(each.tensors)),
            read_stack(plan.post, each, 0, len(each.tensors)),
        )
        for each in plan.projections
    }


def assert_same(plan: PairPlan, plain: PairPlan) -> None:
    """Both plans compare the same values under the same names."""
    first, second = stacks(plan), stacks(plain)
    assert list(first) == list(second)
    for name, sides in first.items():
        for one, other in zip(sides, second[name]):
            assert one.tobytes() == other.tobytes()
