"""Plan of a pair: the projections to compare, the coverage, and every mismatch at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from svdjax.checkpoint.config import ModelConfig
from svdjax.checkpoint.families import FAMILIES, Weight, dimensions
from svdjax.checkpoint.files import listed
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.matching import Fault, grouped, match_family
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.settings import read_config
from svdjax.errors import InputError

# Fields of the configs that must agree, beside the family.
_SAME = (
    *("num_layers", "hidden_size", "intermediate_size"),
    *("num_heads", "num_kv_heads", "head_dim"),
)
# Fields that may differ, which is noted.
_NOTED = (
    "rope",
    "local_rope",
    "rms_norm_eps",
    "windows",
    "query_scale",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
)


@dataclasses.dataclass(frozen=True)
class Projection:
    """Linear layer of every block, analysed under one name.

    Attributes:
        name: Name in Hugging Face: q_proj, ..., down_proj; the whole tensor name where the
            architecture is unknown.
        module: "self_attn", "mlp" or "".
        shape: (in, out) of the matrices.
        tensors: Name of the tensor in each layer.
        transposed: Whether the tensors are stored as (out, in).
        rows: Rows [start, stop) of a fused tensor that make up this projection, when split.
    """

    name: str
    module: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    transposed: bool = True
    rows: tuple[int, int] | None = None

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Shape of the tensors, or of the rows of them."""
        rows, columns = self.shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def turned(self) -> bool:
        """Whether a matrix with its short side as rows is W^T; a square one is as stored."""
        rows, columns = self.shape
        return rows > columns or (rows == columns and self.transposed)


@dataclasses.dataclass(frozen=True)
class PairPlan:
    """Projections of a pair that are analysed, and the tensors that are not.

    Attributes:
        base: Checkpoint before post-training.
        post: Checkpoint after it.
        family: model_type, "unknown" where there is no name table.
        projections: Projections in the order q, k, v, o, gate, up, down.
        coverage: JSON-able: {"analysed": [names], "left_out": {name: reason}, "notes": [lines]};
            every tensor of both checkpoints is in one of the first two.
        notes: Notes of the coverage.
    """

    base: Checkpoint
    post: Checkpoint
    family: str
    projections: tuple[Projection, ...]
    coverage: Mapping[str, Any]
    notes: tuple[str, ...]


def plan_pair(base: Checkpoint, post: Checkpoint, *, split_fused: bool = False) -> PairPlan:
    """Matches two checkpoints tensor by tensor, from their headers alone.

    A vocabulary, tied head or dtype that differs is allowed and noted. Without a name table for
    the architecture every 2-D tensor that both sides have is compared under its own name.

    Args:
        base: Checkpoint before post-training.
        post: Checkpoint after it.
        split_fused: Whether the parts of phi3's qkv_proj and gate_up_proj are analysed one by one.

    Raises:
        InputError: Families or sizes differ, tensors are missing, not in the name table, or of
            another shape than config.json says; the message has all mismatches.
    """
    families = [checkpoint.config.get("model_type") for checkpoint in (base, post)]
    if families[0] == families[1] and families[0] not in FAMILIES:
        return _plan_unknown(base, post)
    sides = {"base": base, "post": post}
    configs, faults, left_out, notes = _check_sides(sides)
    if families[0] != families[1]:
        faults = [
            f"base {base.path} is {families[0]!r} and post {post.path} is {families[1]!r} "
            "(model_type in config.json), expected two models of one family",
            *faults,
        ]
    elif len(configs) == 2:
        faults = _differences(sides, configs) + faults
    if faults:
        raise InputError(f"{base.path} and {post.path} do not fit together: {listed(faults)}")
    config = configs["base"]
    projections = [
        part
        for weight in FAMILIES[config.family].present(config)
        if weight.analysed
        for part in _parts(weight, config, split_fused)
    ]
    notes += _notes(sides, configs)
    return _finish(base, post, config.family, projections, left_out, notes)


def _check_sides(
    sides: Mapping[str, Checkpoint],
) -> tuple[dict[str, ModelConfig], list[str], dict[str, str], list[str]]:
    """Configs, faults of each side against its own, tensors left out, and notes."""
    configs: dict[str, ModelConfig] = {}
    errors: list[str] = []
    faults: list[Fault] = []
    left_out: dict[str, str] = {}
    notes: list[str] = []
    for side, checkpoint in sides.items():
        notes += checkpoint.notes
        if checkpoint.config.get("model_type") not in FAMILIES:
            continue
        try:
            config, more = read_config(checkpoint)
            mismatches, ignored = match_family(checkpoint, config)
        except InputError as error:
            errors.append(f"{side}: {error}")
            continue
        configs[side] = config
        notes += more
        faults += [Fault(name, f"{side}: {text}") for name, text in mismatches]
        left_out |= ignored
        for weight in FAMILIES[config.family].present(config):
            if not weight.analysed:
                left_out |= dict.fromkeys(weight.tensors(config), _reason(weight))
    return configs, errors + grouped(faults), left_out, notes


def _differences(sides: Mapping[str, Checkpoint], configs: Mapping[str, ModelConfig]) -> list[str]:
    """Sizes that have to agree and do not."""
    texts = []
    for field in _SAME:
        base, post = (getattr(configs[side], field) for side in ("base", "post"))
        if base != post:
            texts.append(
                f"{field} is {base} in {sides['base'].home / 'config.json'} and {post} in "
                f"{sides['post'].home / 'config.json'}"
            )
    return texts


def _notes(sides: Mapping[str, Checkpoint], configs: Mapping[str, ModelConfig]) -> list[str]:
    """Differences between the sides that are allowed."""
    base, post = configs["base"], configs["post"]
    notes = []
    if base.vocab_size != post.vocab_size:
        notes.append(
            f"vocabulary differs: {base.vocab_size} in base, {post.vocab_size} in post; "
            "embeddings are not analysed"
        )
    if base.tie_word_embeddings != post.tie_word_embeddings:
        tied = "base" if base.tie_word_embeddings else "post"
        notes.append(f"the output head is tied to the embedding in {tied} only")
    for field in _NOTED:
        if getattr(base, field) != getattr(post, field):
            notes.append(f"{field} differs between the configs; weights are compared all the same")
    dtypes = {
        side: ", ".join(sorted({str(checkpoint.spec(name).dtype) for name in checkpoint.names}))
        for side, checkpoint in sides.items()
    }
    if dtypes["base"] != dtypes["post"]:
        notes.append(f"storage dtypes differ: {dtypes['base']} in base, {dtypes['post']} in post")
    return notes


def _parts(weight: Weight, config: ModelConfig, split: bool) -> list[Projection]:
    """Projection of a weight, or the parts of a fused one."""
    tensors = weight.tensors(config)
    rows, columns = weight.stored_shape(config)
    if not (split and weight.parts):
        return [Projection(weight.projection, weight.module, (columns, rows), tensors)]
    sizes, start, parts = dimensions(config), 0, []
    for name, letter in weight.parts:
        stop = start + sizes[letter]
        shape = (columns, stop - start)
        parts.append(Projection(name, weight.module, shape, tensors, True, (start, stop)))
        start = stop
    return parts


def _reason(weight: Weight) -> str:
    """Why a weight of the name table is not analysed."""
    if weight.path.endswith("/bias"):
        return "bias: a vector"
    if weight.path.endswith("/scale"):
        return "norm: a vector"
    if weight.projection == "shared_expert_gate":
        return "gate of the shared expert: a vector"
    return "embedding" if weight.path.startswith("embed_tokens") else "output head"


def _plan_unknown(base: Checkpoint, post: Checkpoint) -> PairPlan:
    """Plan of an architecture without a name table."""
    kind = base.config.get("model_type")
    projections, left_out = [], {}
    for name in sorted({*base.names, *post.names}):
        reason = _why_not(base, post, name)
        if reason:
            left_out[name] = reason
        else:
            rows, columns = base.spec(name).shape
            projections.append(Projection(name, "", (columns, rows), (name,)))
    if not projections:
        raise InputError(
            f"{base.path} and {post.path} do not fit together: model_type {kind!r} is unknown and "
            "they have no matrix of the same name and shape; expected two models of one family"
        )
    note = (
        f"model_type {kind!r} has no name table (known: {', '.join(FAMILIES)}): every 2-D tensor "
        "that both checkpoints have is analysed under its own name, read as (out, in)"
    )
    return _finish(base, post, "unknown", projections, left_out, [*base.notes, *post.notes, note])


def _why_not(base: Checkpoint, post: Checkpoint, name: str) -> str:
    """Why a tensor of an unknown architecture is not compared; empty if it is."""
    if name not in post:
        return "only in base"
    if name not in base:
        return "only in post"
    first, second = base.spec(name), post.spec(name)
    if len(first.shape) != 2 or len(second.shape) != 2:
        return f"not a matrix: shape {first.shape}"
    if first.shape != second.shape:
        return f"shapes differ: {first.shape} in base, {second.shape} in post"
    if 0 in first.shape:
        return "empty"
    if first.dtype not in FLOATS or second.dtype not in FLOATS:
        return f"not floating point: {first.dtype} in base, {second.dtype} in post"
    return ""


def _finish(
    base: Checkpoint,
    post: Checkpoint,
    family: str,
    projections: list[Projection],
    left_out: dict[str, str],
    notes: list[str],
) -> PairPlan:
    """Plan whose coverage accounts for every tensor of both sides."""
    analysed = {name for projection in projections for name in projection.tensors}
    names = {*base.names, *post.names}
    left_out = {name: left_out[name] for name in sorted(left_out) if name in names}
    for name, reason in left_out.items():
        side = "base" * (name not in post) + "post" * (name not in base)
        if side and not reason.startswith("only in"):
            left_out[name] = f"{reason}; only in {side}"
    assert analysed | left_out.keys() == names
    assert not analysed & left_out.keys()
    notes = list(dict.fromkeys(notes))
    coverage = {"analysed": sorted(analysed), "left_out": left_out, "notes": notes}
    return PairPlan(base, post, family, tuple(projections), coverage, tuple(notes))
