"""Canonical names: those of transformers' llama family, whatever wraps a model.

The decoder is found by its tensors: the stack ``PREFIX layers.N.`` that holds the most linear
layers of attention and feed-forward parts. What its prefix is (``model.language_model.``,
``_orig_mod.model.``, none) becomes ``model.``, and what wraps the whole goes from all other names.
Fused experts become one matrix [out, in] each.

Axes of fused experts: `E` experts, `D` model, `I` ffn of an expert.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any

from svdjax.checkpoint.reader import Checkpoint, Part
from svdjax.checkpoint.view import CheckpointView
from svdjax.errors import InputError

DECODER = "model.layers."

# Put between parts of names by torch.compile, data parallelism, FSDP, activation checkpointing, and
# by PEFT around a layer.
_INSERTED = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|(?:_forward_)?module|_fsdp_wrapped_module|"
    r"_checkpoint_wrapped_module|base_layer)\."
)
_FACTORS = re.compile(r"(.+\.)lora_(?:A|B|embedding_A|embedding_B)(?:\..+)?")
_WRAPPERS = ("base_model.model.",)
_STACK = re.compile(r"((?:.*?\.)?)layers\.\d{1,5}\.(.+)")
_LINEAR = re.compile(
    r"self_attn\.(?:[qkvo]|qkv|q_a|q_b|kv_b)_proj\b|self_attn\.kv_a_proj_with_mqa\b|"
    r"(?:mlp|feed_forward|block_sparse_moe)\.(?:experts\b|(?:gate|up|down|gate_up)_proj\b)|"
    r"block_sparse_moe\."
)
_OTHER_STACK = re.compile(
    r"(?:^|[._])(?:vis\w*|vit|image\w*|audio\w*|speech\w*|talker|mtp|draft|ema)[._]"
)
_DECODER_PARTS = ("layers", "embed_tokens", "norm", "rotary_emb")
HEADS = ("lm_head", "score", "classifier", "v_head", "value_head", "reward_head")
_IN_LAYER = re.compile(r"(model\.layers\.\d+\.)(feed_forward|block_sparse_moe)\.(.+)")
_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_GRANITE = {
    "input_linear.weight": "experts.gate_up_proj",
    "output_linear.weight": "experts.down_proj",
}
_FUSED = re.compile(
    r"(model\.layers\.\d+\.mlp\.experts)\.(gate_up_proj|gate_proj|up_proj|down_proj)(?:\.weight)?"
)
_ALTERNATING = ("gpt_oss", "openai_privacy_filter")
"""model_types whose gate and up are the even and odd columns of one tensor."""
_MOST_EXPERTS = 4096


class CanonicalCheckpoint(CheckpointView):
    """A checkpoint as it is opened, under canonical names."""

    @property
    def model(self) -> Checkpoint:
        """Itself."""
        return self


def canonical(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint under canonical names; itself where its names are so already.

    Raises:
        InputError: It holds factors of LoRA beside the layers that they change.
    """
    _refuse_factors(checkpoint)
    renamed, notes = _rename(checkpoint)
    experts, more = _split_experts(checkpoint, renamed)
    taken = {part.tensor for part in experts.values()}
    parts = {
        name: Part(tensor)
        for tensor, name in renamed.items()
        if name != tensor and tensor not in taken
    }
    parts |= experts
    if not parts:
        checkpoint.notes += (*notes, *more)
        return checkpoint
    # What only wraps a model goes from a copy too; models of several parts have their own names.
    wrapped = "text_config" not in checkpoint.config and all(
        _INSERTED.sub("", part.tensor).endswith(name.removeprefix("model."))
        for name, part in parts.items()
        if part.is_whole
    )
    return CanonicalCheckpoint(checkpoint, parts, [*notes, *more], renames=wrapped)


def _refuse_factors(checkpoint: Checkpoint) -> None:
    """Raises `InputError` for a model saved with layers of PEFT, by how much they count unknown."""
    for name in checkpoint.names:
        factors = _FACTORS.fullmatch(name)
        if factors and f"{factors[1]}base_layer.weight" in checkpoint:
            raise InputError(
                f"{checkpoint.where(name)}: tensor {name} is a factor of LoRA beside the layer "
                "that it changes, and nothing says by how much; expected a merged model: merge "
                "it with PEFT (merge_and_unload, save_pretrained)"
            )


def text_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """config.json, or the part of it that describes the text model."""
    inner = checkpoint.config.get("text_config")
    return inner if isinstance(inner, Mapping) else checkpoint.config


def canonical_names(tensors: Iterable[str]) -> dict[str, str]:
    """Canonical name of each tensor of a model, or of some of them."""
    names = {name: _INSERTED.sub("", name) for name in tensors}
    prefix = _decoder_prefix(names.values())
    if prefix is None:
        for wrapper in _WRAPPERS:
            if all(name.startswith(wrapper) for name in names.values()):
                names = {tensor: name[len(wrapper) :] for tensor, name in names.items()}
    else:
        names = {tensor: _in_decoder(name, prefix) for tensor, name in names.items()}
    counts = collections.Counter(names.values())
    # Two copies in one checkpoint, such as a moving average, stay apart.
    return {tensor: name if counts[name] == 1 else tensor for tensor, name in names.items()}


def _rename(checkpoint: Checkpoint) -> tuple[dict[str, str], list[str]]:
    """Canonical name of each tensor, and notes on what changed."""
    names = canonical_names(checkpoint.names)
    changed = [(tensor, name) for tensor, name in names.items() if tensor != name]
    if not changed:
        return names, []
    tensor, name = min(changed)
    return names, [
        f"{checkpoint.path}: {len(changed)} of {len(names)} tensors are read under the names of a "
        f"plain model: {tensor} as {name}"
    ]


def _decoder_prefix(names: Iterable[str]) -> str | None:
    """What comes before ``layers.`` in the names of the decoder; None where there is none."""
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        match = _STACK.fullmatch(name)
        if match and _LINEAR.match(match[2]) and not _OTHER_STACK.search(match[1]):
            counts[match[1]] += 1
    return min(counts, key=lambda prefix: (-counts[prefix], len(prefix))) if counts else None


def _in_decoder(name: str, prefix: str) -> str:
    """Canonical name of a tensor of a model whose decoder has a prefix."""
    if name.startswith(prefix):
        rest = name[len(prefix) :]
        first = rest.partition(".")[0]
        if first in HEADS or (not prefix and first not in _DECODER_PARTS):
            return rest
        name = f"model.{rest}"
        match = _IN_LAYER.fullmatch(name)
        return f"{match[1]}mlp.{_in_experts(match[3])}" if match else name
    for part in prefix.split("."):
        if not part or not name.startswith(f"{part}."):
            break
        name = name[len(part) + 1 :]
    return name


def _in_experts(rest: str) -> str:
    """Name inside of mlp, from mixtral's, granite's or llama4's."""
    rest = _GRANITE.get(rest, rest).replace("router.layer.", "gate.", 1)
    parts = rest.split(".")
    if parts[0] == "experts" and len(parts) == 4 and parts[2] in _MIXTRAL:
        parts[2] = _MIXTRAL[parts[2]]
    return ".".join(parts)


def _split_experts(
    checkpoint: Checkpoint, renamed: Mapping[str, str]
) -> tuple[dict[str, Part], list[str]]:
    """Matrices of fused experts, and notes on how they are read."""
    layers: dict[str, dict[str, str]] = {}
    for tensor, name in renamed.items():
        match = _FUSED.fullmatch(name)
        if match and len(checkpoint.spec(tensor).shape) == 3:
            layers.setdefault(match[1], {})[match[2]] = tensor
    parts: dict[str, Part] = {}
    ways: dict[str, int] = {}
    for layer, tensors in layers.items():
        shapes = {role: checkpoint.spec(tensor).shape for role, tensor in tensors.items()}
        transposed = _is_transposed(checkpoint, shapes)
        way = "as they are stored, for their orientation is not known"
        if transposed is not None and _are_bounded(shapes):
            alternating = _alternate(checkpoint, transposed, f"{layer}.gate_up_proj_bias", renamed)
            way = "as [experts, " + ("in, out]" if transposed else "out, in]")
            if "gate_up_proj" in shapes:
                way += ", gate and up in turns" if alternating else ", gate before up"
            for role, tensor in tensors.items():
                for name, part in _experts_of(tensor, role, shapes[role], transposed, alternating):
                    parts[f"{layer}.{name}.weight"] = part
        ways[way] = ways.get(way, 0) + 1
    return parts, [
        f"{checkpoint.path}: fused experts of {count} layers are read {way}"
        for way, count in ways.items()
    ]


def _are_bounded(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return all(0 < shape[0] <= _MOST_EXPERTS and 0 not in shape for shape in shapes.values())


def _is_transposed(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether experts are stored [in, out]: by their shapes, which tell where gate and up are one.

    With [E, 2 I, D] goes [E, D, I], and with [E, D, 2 I] goes [E, I, D]; never both. Elsewhere by
    the width that config.json states; None where that does not tell.
    """
    if "gate_up_proj" in shapes and "down_proj" in shapes:
        (_, a, b), (_, c, d) = shapes["gate_up_proj"], shapes["down_proj"]
        if (a, b) == (2 * d, c):
            return False
        if (a, b) == (d, 2 * c):
            return True
        return None
    width = text_config(checkpoint).get("hidden_size")
    ways = set()
    for role, (_, a, b) in shapes.items():
        out, into = (b, a) if role == "down_proj" else (a, b)
        if (out == width) != (into == width):
            ways.add(out == width)
    return ways.pop() if len(ways) == 1 else None


def _alternate(
    checkpoint: Checkpoint, transposed: bool, bias: str, renamed: Mapping[str, str]
) -> bool:
    """Whether gate and up alternate: in gpt-oss, and in what has its layout and its biases."""
    kinds = [config.get("model_type") for config in (checkpoint.config, text_config(checkpoint))]
    return any(kind in _ALTERNATING for kind in kinds) or (
        transposed and bias in renamed.values() and "llama4_text" not in kinds
    )


def _experts_of(
    tensor: str, role: str, shape: tuple[int, ...], transposed: bool, alternating: bool
) -> Iterable[tuple[str, Part]]:
    """Yields the matrices of one tensor by their names inside of ``experts``."""
    rows = shape[2] if transposed else shape[1]
    spans: dict[str, tuple[int, int, int] | None] = {role: None}
    if role == "gate_up_proj":
        spans = {"gate_proj": (0, rows // 2, 1), "up_proj": (rows // 2, rows, 1)}
        if alternating:
            spans = {"gate_proj": (0, rows, 2), "up_proj": (1, rows, 2)}
    for expert in range(shape[0]):
        for name, span in spans.items():
            yield f"{expert}.{name}", Part(tensor, expert, transposed, span)
