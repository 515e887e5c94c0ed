"""Plan of a pair: the projections to compare, the coverage, and every mismatch at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from svdjax.checkpoint.canonical import DECODER
from svdjax.checkpoint.completeness import decoder_reason, expert_notes, find_faults, kind_of
from svdjax.checkpoint.config import ModelConfig
from svdjax.checkpoint.families import FAMILIES
from svdjax.checkpoint.files import listed
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.matching import grouped
from svdjax.checkpoint.merged import MergedCheckpoint
from svdjax.checkpoint.pairing import same_layers, same_names
from svdjax.checkpoint.projection import Place, Projection, distinct, group, places
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.settings import read_config
from svdjax.errors import InputError

# Sizes in the configs: where they differ, shapes do.
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
class PairPlan:
    """Projections of a pair that are analysed, and the tensors that are not.

    Attributes:
        base: Checkpoint before post-training, under the names of the projections' tensors.
        post: Checkpoint after it, under these names too.
        family: model_type of post, "unknown" where there is no name table.
        projections: Projections in the order q, k, v, o, gate, up, down.
        coverage: JSON-able: {"analysed": [names], "left_out": {name: reason}, "notes": [lines]};
            every tensor of both checkpoints is in one of the first two. Where layers of models of
            different depth are matched, "layers" has that of base by that of post.
        notes: Notes of the coverage.
    """

    base: Checkpoint
    post: Checkpoint
    family: str
    projections: tuple[Projection, ...]
    coverage: Mapping[str, Any]
    notes: tuple[str, ...]

    def shares_codes(self, name: str) -> bool:
        """Whether both sides hold the same codes of a tensor: of an adapter and its own base.

        What quantisation rounded is then in both, and no part of the change.
        """
        return _shares_codes(self.base, self.post, name)


def plan_pair(base: Checkpoint, post: Checkpoint, *, split_fused: bool = False) -> PairPlan:
    """Matches two checkpoints matrix by matrix.

    The tensors decide: every matrix that both sides have is compared, but embeddings and output
    heads of a decoder, and what config.json says else is noted. Names need not agree beyond their
    ends, fused projections are split where the other side's are, and layers of models of different
    depth are matched (for which a few rows of some matrices are read; all else is in the headers).

    Args:
        base: Checkpoint before post-training.
        post: Checkpoint after it.
        split_fused: Whether the parts of phi3's qkv_proj and gate_up_proj are analysed one by one.

    Raises:
        InputError: No matrix of one is in the other, or a side is incomplete: matrices are missing
            in some layers, are of another shape there or no floats, or config.json makes no sense
            as to sizes. The message has all faults.
    """
    sides: dict[str, Checkpoint] = {}
    sides["base"], sides["post"] = same_names(base, post)
    configs, faults, notes = _read_configs(sides)
    whole = not notes
    where = places({*sides["base"].names, *sides["post"].names})
    found, more = find_faults(sides, configs, where)
    faults, notes = faults + grouped(found), notes + more
    if faults:
        raise InputError(f"{base.path} and {post.path} do not fit together: {listed(faults)}")
    sides["base"], layers, dropped = same_layers(sides["base"], sides["post"])
    where = places({*sides["base"].names, *sides["post"].names})
    shapes, left_out = _compared(sides, configs, where)
    if not shapes:
        raise InputError(_nothing_in_common(base, post))
    conflicts = [
        side.conflicts[name] for side in sides.values() for name in shapes if name in side.conflicts
    ]
    if conflicts:
        raise InputError(f"{base.path} and {post.path} do not fit together: {listed(conflicts)}")
    projections = group(shapes, where)
    if split_fused:
        projections = distinct([part for each in projections for part in _parts(each, projections)])
    notes = [note for side in sides.values() for note in side.notes] + notes
    notes += expert_notes(sides, where)
    shared = sum(_shares_codes(sides["base"], sides["post"], name) for name in shapes)
    if shared:
        notes.append(
            f"{shared} matrices of both sides have the same codes, being of one quantised base: "
            "its steps hide nothing of how they differ"
        )
    notes += _kind_notes(sides) + (_notes(sides, configs, whole) if len(configs) == 2 else [])
    family = _family(sides) if any(each.module for each in projections) else "unknown"
    return _finish(sides, family, projections, left_out | dropped, notes, layers)


def _shares_codes(base: Checkpoint, post: Checkpoint, name: str) -> bool:
    merged = post.model
    return (
        isinstance(merged, MergedCheckpoint)
        and merged.base.path == base.path
        and base.part(name) == post.part(name)
        and bool(base.packed(name) and post.packed(name))
    )


def _read_configs(
    sides: Mapping[str, Checkpoint],
) -> tuple[dict[str, ModelConfig], list[str], list[str]]:
    """Configurations of the sides whose family is known, faults and notes."""
    configs: dict[str, ModelConfig] = {}
    faults, notes = [], []
    for side, checkpoint in sides.items():
        if kind_of(checkpoint) not in FAMILIES:
            continue
        try:
            configs[side], more = read_config(checkpoint)
            notes += more
        except InputError as error:
            faults.append(f"{side}: {error}")
    return configs, faults, notes


def _family(sides: Mapping[str, Checkpoint]) -> str:
    """Family by whose names the pair is analysed: that of post."""
    kind = kind_of(sides["post"])
    return kind if kind in FAMILIES else "unknown"


def _kind_notes(sides: Mapping[str, Checkpoint]) -> list[str]:
    """What there is to say of the architectures."""
    base, post = (kind_of(checkpoint) for checkpoint in sides.values())
    if base != post:
        return [
            f"model_type is {base!r} in base and {post!r} in post: matrices of the same name and "
            "shape are compared"
        ]
    if base in FAMILIES:
        return []
    return [
        f"model_type {base!r} has no name table (known: {', '.join(FAMILIES)}): every 2-D tensor "
        "that both checkpoints have is analysed, read as (out, in); of a decoder under known names "
        "all but embeddings and heads"
    ]


def _compared(
    sides: Mapping[str, Checkpoint],
    configs: Mapping[str, ModelConfig],
    where: Mapping[str, Place],
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shape of each matrix that is compared, and the reason of each tensor that is not."""
    base, post = sides["base"], sides["post"]
    decoder = any(each.template.startswith(DECODER) for each in where.values())
    shapes: dict[str, tuple[int, ...]] = {}
    left_out: dict[str, str] = {}
    for name in sorted({*base.names, *post.names}):
        reason = decoder_reason(name, where[name], sides, configs) if decoder else ""
        reason = reason or _why_not(base, post, name)
        if reason:
            left_out[name] = reason
        else:
            shapes[name] = post.spec(name).shape
    return shapes, left_out


def _why_not(base: Checkpoint, post: Checkpoint, name: str) -> str:
    """Why a tensor is not compared; empty if it is."""
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


def _nothing_in_common(base: Checkpoint, post: Checkpoint) -> str:
    """What is there on both sides, where no matrix is the same."""
    told = []
    for side, checkpoint in (("base", base), ("post", post)):
        matrices = [name for name in checkpoint.names if len(checkpoint.spec(name).shape) == 2]
        numbered = places(matrices)
        first = {numbered[name].template: name for name in reversed(matrices)}
        shown = [f"{name} {checkpoint.spec(name).shape}" for name in list(first.values())[:-5:-1]]
        kind = checkpoint.config.get("model_type")
        told.append(f"{side} ({kind!r}) has {', '.join(shown) or 'no matrix'}")
    return (
        f"{base.path} and {post.path} do not fit together: they have no matrix of the same name "
        f"and shape; {'; '.join(told)}"
    )


def _parts(each: Projection, projections: Sequence[Projection]) -> list[Projection]:
    """Parts of a fused projection of the decoder; any other as it is.

    Queries are as many as o_proj has inputs; keys and values share what is left.
    """
    columns, rows = each.shape
    if (each.module, each.name) == ("mlp", "gate_up_proj"):
        sizes = {"gate_proj": rows // 2, "up_proj": rows - rows // 2}
    elif (each.module, each.name) == ("self_attn", "qkv_proj"):
        queries = next((one.shape[0] for one in projections if one.name == "o_proj"), rows // 3)
        keys = (rows - queries) // 2
        sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    else:
        return [each]
    if min(sizes.values()) < 1 or sum(sizes.values()) != rows:
        return [each]
    parts, start = [], 0
    for name, size in sizes.items():
        cut = (start, start + size)
        parts.append(dataclasses.replace(each, name=name, shape=(columns, size), rows=cut))
        start += size
    return parts


def _differences(sides: Mapping[str, Checkpoint], configs: Mapping[str, ModelConfig]) -> list[str]:
    """Sizes that are not the same in both configurations."""
    texts = []
    for field in _SAME:
        base, post = (getattr(configs[side], field) for side in ("base", "post"))
        if base != post:
            texts.append(
                f"{field} is {base} in {sides['base'].home / 'config.json'} and {post} in "
                f"{sides['post'].home / 'config.json'}; what is of one shape is compared"
            )
    return texts


def _notes(
    sides: Mapping[str, Checkpoint], configs: Mapping[str, ModelConfig], whole: bool
) -> list[str]:
    """Differences between the sides that are allowed.

    Args:
        sides: Both checkpoints.
        configs: Their configurations.
        whole: Whether these are what config.json says, and not the part of it that makes sense.
    """
    base, post = configs["base"], configs["post"]
    notes = _differences(sides, configs)
    if base.vocab_size != post.vocab_size:
        notes.append(
            f"vocabulary differs: {base.vocab_size} in base, {post.vocab_size} in post; "
            "embeddings are not analysed"
        )
    if base.tie_word_embeddings != post.tie_word_embeddings:
        tied = "base" if base.tie_word_embeddings else "post"
        notes.append(f"the output head is tied to the embedding in {tied} only")
    same_depth = base.num_layers == post.num_layers
    for field in _NOTED if whole else ():
        if field == "windows" and not same_depth:  # one for each layer
            continue
        if getattr(base, field) != getattr(post, field):
            notes.append(f"{field} differs between the configs; weights are compared all the same")
    dtypes = {
        side: ", ".join(sorted({str(checkpoint.spec(name).dtype) for name in checkpoint.names}))
        for side, checkpoint in sides.items()
    }
    if dtypes["base"] != dtypes["post"]:
        notes.append(f"storage dtypes differ: {dtypes['base']} in base, {dtypes['post']} in post")
    return notes


def _finish(
    sides: Mapping[str, Checkpoint],
    family: str,
    projections: list[Projection],
    left_out: Mapping[str, str],
    notes: list[str],
    layers: Mapping[int, int],
) -> PairPlan:
    """Plan whose coverage accounts for every tensor of both sides."""
    base, post = sides["base"], sides["post"]
    analysed = {name for projection in projections for name in projection.tensors}
    names = {*base.names, *post.names}
    left_out = {name: left_out[name] for name in sorted(left_out)}
    for name in names & left_out.keys():
        side = "base" * (name not in post) + "post" * (name not in base)
        if side and not left_out[name].startswith("only in"):
            left_out[name] = f"{left_out[name]}; only in {side}"
    assert names <= analysed | left_out.keys()
    assert not analysed & left_out.keys()
    notes = list(dict.fromkeys(notes))
    coverage: dict[str, Any] = {"analysed": sorted(analysed), "left_out": left_out, "notes": notes}
    if layers:
        coverage["layers"] = {str(number): source for number, source in sorted(layers.items())}
    return PairPlan(base, post, family, tuple(projections), coverage, tuple(notes))
