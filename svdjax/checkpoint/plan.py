"""What of a pair can be compared: projections, coverage, and every mismatch at once."""

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

# What both sides must have in common, beside the family.
_SAME = (
    "num_layers",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "num_kv_heads",
    "head_dim",
)
# What may differ between them, and is noted.
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
    """A linear layer of every block: what is analysed under one name.

    Attributes:
        name: As in Hugging Face: q_proj, ..., down_proj; the whole tensor name where the
            architecture is unknown.
        module: "self_attn", "mlp" or "".
        shape: (in, out) of the matrices.
        tensors: The tensor of each layer.
        transposed: The tensors are stored as (out, in).
        rows: The rows [start, stop) of a fused tensor that make up this projection, when split.
    """

    name: str
    module: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    transposed: bool = True
    rows: tuple[int, int] | None = None

    @property
    def turned(self) -> bool:
        """Whether a matrix that has its short side as rows is W^T; one that is square as stored."""
        rows, columns = self.shape
        return rows > columns or (rows == columns and self.transposed)


@dataclasses.dataclass(frozen=True)
class PairPlan:
    """What is analysed of a pair, and what is not.

    Attributes:
        base: The checkpoint before post-training.
        post: The checkpoint after it.
        family: model_type, "unknown" where there is no name table.
        projections: In the order q, k, v, o, gate, up, down.
        coverage: JSON-able: {"analysed": [names], "left_out": {name: reason}, "notes": [lines]};
            every tensor of both checkpoints is in one of the first two.
        notes: The same notes.
    """

    base: Checkpoint
    post: Checkpoint
    family: str
    projections: tuple[Projection, ...]
    coverage: Mapping[str, Any]
    notes: tuple[str, ...]


def plan_pair(base: Checkpoint, post: Checkpoint, *, split_fused: bool = False) -> PairPlan:
    """Match two checkpoints tensor by tensor, from their headers alone.

    A vocabulary, tied head or dtype that differs is allowed and noted. Without a name table for
    the architecture every 2-D tensor that both sides have is compared under its own name.

    Args:
        base: The checkpoint before post-training.
        post: The checkpoint after it.
        split_fused: Analyse the parts of phi3's qkv_proj and gate_up_proj one by one.

    Raises:
        InputError: With all mismatches: families or sizes that differ, tensors that are missing,
            not in the name table, or of another shape than config.json says.
    """
    families = [checkpoint.config.get("model_type") for checkpoint in (base, post)]
    if families[0] == families[1] and families[0] not in FAMILIES:
        return _plan_unknown(base, post)
    sides = {"base": base, "post": post}
    configs, problems, left_out, notes = _check_sides(sides)
    if families[0] != families[1]:
        problems = [
            f"base {base.path} is {families[0]!r} and post {post.path} is {families[1]!r} "
            "(model_type in config.json), expected two models of one family",
            *problems,
        ]
    elif len(configs) == 2:
        problems = _differences(sides, configs) + problems
    if problems:
        raise InputError(f"{base.path} and {post.path} do not fit together: {listed(problems)}")
    weights = FAMILIES[configs["base"].family].present(configs["base"])
    projections = [
        part
        for weight in weights
        if weight.analysed
        for part in _parts(weight, configs["base"], split_fused)
    ]
    notes += _notes(sides, configs)
    return _finish(base, post, configs["base"].family, projections, left_out, notes)


def _check_sides(
    sides: Mapping[str, Checkpoint],
) -> tuple[dict[str, ModelConfig], list[str], dict[str, str], list[str]]:
    """Each side against its own config.json: configs, problems, tensors left out, notes."""
    configs: dict[str, ModelConfig] = {}
    problems: list[str] = []
    faults: list[Fault] = []
    left_out: dict[str, str] = {}
    notes: list[str] = []
    for side, checkpoint in sides.items():
        notes += checkpoint.notes
        if checkpoint.config.get("model_type") not in FAMILIES:
            continue
        try:
            config, found = read_config(checkpoint)
            wrong, ignored = match_family(checkpoint, config)
        except InputError as error:
            problems.append(f"{side}: {error}")
            continue
        configs[side] = config
        notes += found
        faults += [Fault(name, f"{side}: {text}") for name, text in wrong]
        left_out |= ignored
        for weight in FAMILIES[config.family].present(config):
            if not weight.analysed:
                left_out |= dict.fromkeys(weight.tensors(config), _reason(weight))
    return configs, problems + grouped(faults), left_out, notes


def _differences(sides: Mapping[str, Checkpoint], configs: Mapping[str, ModelConfig]) -> list[str]:
    """Sizes that have to agree and do not."""
    values = [
        (field, *(getattr(configs[side], field) for side in ("base", "post"))) for field in _SAME
    ]
    return [
        f"{field} is {first} in {sides['base'].home / 'config.json'} and {second} in "
        f"{sides['post'].home / 'config.json'}"
        for field, first, second in values
        if first != second
    ]


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
    dtypes = {}
    for side, checkpoint in sides.items():
        found = {str(checkpoint.spec(name).dtype) for name in checkpoint.names}
        dtypes[side] = ", ".join(sorted(found))
    if dtypes["base"] != dtypes["post"]:
        notes.append(f"storage dtypes differ: {dtypes['base']} in base, {dtypes['post']} in post")
    return notes


def _parts(weight: Weight, config: ModelConfig, split: bool) -> list[Projection]:
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
    if weight.path.endswith("/bias"):
        return "bias: a vector"
    if weight.path.endswith("/scale"):
        return "norm: a vector"
    return "embedding" if weight.path.startswith("embed_tokens") else "output head"


def _plan_unknown(base: Checkpoint, post: Checkpoint) -> PairPlan:
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
    for here, there, side in ((base, post, "base"), (post, base, "post")):
        if name in here and name not in there:
            return f"only in {side}"
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
    """Account for every tensor of both sides."""
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
