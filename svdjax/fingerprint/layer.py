"""A block of a decoder by the roles of its matrices, read from any family's checkpoint.

Axes: `D` model, `F` ffn, `K` kv heads, `G` query heads per kv head, `H` head dim, `E` experts.

A mixture of experts is one feed-forward part whose neurons are those of all its experts, expert by
expert, then those of the shared one: as such it is compared, whatever the order of the experts.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np

from svdjax.checkpoint import FAMILIES, Checkpoint, ModelConfig
from svdjax.checkpoint.families import dimensions
from svdjax.checkpoint.params import check_finite
from svdjax.spectral.storage import equal_eps

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
PROJECTIONS = ATTENTION + FEED_FORWARD


@dataclasses.dataclass(frozen=True)
class Layer:
    """The linear layers of a block in float64, kernels as [in, out], heads as axes of their own.

    Attributes:
        q: [D, K, G, H].
        k: [D, K, H].
        v: [D, K, H].
        o: [K, G, H, D].
        gate: [D, F].
        up: [D, F].
        down: [F, D].
        planes: Number of pairs of head dimensions (j, j + planes) that the rotary embedding
            rotates.
        qk_norm: Axes over which queries and keys are normalised ("head", "all" or ""), as in
            `ModelConfig`.
        eps: Distance from 1 to the next number of the format that the matrices were stored in, the
            finest where they differ; 0 where they are exact.
        router: Of a mixture of experts, [D, E].
        expert_size: Neurons of each expert; further ones are those of the shared expert.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    o: np.ndarray
    gate: np.ndarray
    up: np.ndarray
    down: np.ndarray
    planes: int
    qk_norm: str = ""
    eps: float = 0.0
    router: np.ndarray | None = None
    expert_size: int = 0

    @property
    def expert_slices(self) -> list[slice]:
        """Neurons of each expert, then those of the shared one; all, where there are no experts."""
        if self.router is None:
            return [slice(0, len(self.down))]
        size, count = self.expert_size, self.router.shape[1]
        slices = [slice(start, start + size) for start in range(0, count * size, size)]
        rest = slice(count * size, len(self.down))
        return [*slices, *([rest] if rest.start < rest.stop else [])]

    def matrices(self) -> dict[str, np.ndarray]:
        """The matrices [in, out] by projection."""
        width, out = self.q.shape[0], self.o.shape[-1]
        return {
            "q_proj": self.q.reshape(width, -1),
            "k_proj": self.k.reshape(width, -1),
            "v_proj": self.v.reshape(width, -1),
            "o_proj": self.o.reshape(-1, out),
            "gate_proj": self.gate,
            "up_proj": self.up,
            "down_proj": self.down,
        }

    def like(self, matrices: Mapping[str, np.ndarray]) -> Layer:
        """The given matrices [in, out] in the layout of this block's; those not given stay."""
        fields = {
            name.removesuffix("_proj"): w.reshape(getattr(self, name.removesuffix("_proj")).shape)
            for name, w in matrices.items()
        }
        return dataclasses.replace(self, **fields)


READERS = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}
"""Projections that read the residual stream, by module."""


def norms_before(config: ModelConfig) -> dict[str, str]:
    """The norm before each module's readers; none in families that normalise after."""
    if not config.pre_norms:
        return {}
    second = "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm"
    return {"self_attn": "input_layernorm", "mlp": second}


def rotary_planes(config: ModelConfig) -> int:
    """Number of pairs of head dimensions that the rotary embedding rotates."""
    return int(config.head_dim * config.rope.partial_rotary_factor) // 2


def feed_forward_width(config: ModelConfig) -> int:
    """Number of neurons of a block."""
    if not config.num_experts:
        return config.intermediate_size
    return config.num_experts * config.expert_size + config.shared_expert_size


def read_layer(checkpoint: Checkpoint, config: ModelConfig, index: int) -> Layer:
    """Reads a block, with the norm scales folded into the matrices that follow them.

    ``norm(x) * g @ W = norm(x) @ (diag(g) W)``: in this form scales of norm and matrix cannot be
    traded any more, and a rotation of the residual stream is one of the matrices alone.

    Raises:
        InputError: A tensor holds NaN or Inf, or cannot be read.
    """
    pieces: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    scales: dict[str, np.ndarray] = {}
    eps: list[float] = []
    for weight in FAMILIES[config.family].present(config):
        if not weight.stacked or not weight.path.endswith(("/kernel", "/scale")):
            continue
        scale = weight.path.endswith("/scale")
        if not (scale or weight.analysed):
            continue  # how much of the shared expert is added
        for expert in range(config.num_experts if weight.of_experts else 1):
            name = weight.name.format(layer=index, expert=expert)
            tensor = checkpoint.read(name)
            check_finite(checkpoint, name, tensor)
            tensor = tensor.astype(np.float64)
            if scale:
                scales[weight.projection] = tensor + config.norm_plus_one
                continue
            eps.append(equal_eps(*checkpoint.precision(name), tensor))
            start, sizes = 0, dimensions(config)
            for role, letter in weight.parts or ((weight.projection, weight.shape[0]),):
                role = role.rpartition(".")[2]
                pieces[role].append(tensor[start : start + sizes[letter]].T)
                start += sizes[letter]
    parts = {
        role: np.concatenate(each, axis=0 if role == "down_proj" else 1)
        for role, each in pieces.items()
    }
    for module, norm in norms_before(config).items():
        for role in (*READERS[module], *(["gate"] if module == "mlp" and "gate" in parts else [])):
            parts[role] = scales[norm][:, None] * parts[role]
    D, K, H = config.hidden_size, config.num_kv_heads, config.head_dim
    return Layer(
        q=parts["q_proj"].reshape(D, K, -1, H),
        k=parts["k_proj"].reshape(D, K, H),
        v=parts["v_proj"].reshape(D, K, H),
        o=parts["o_proj"].reshape(K, -1, H, D),
        gate=parts["gate_proj"],
        up=parts["up_proj"],
        down=np.ascontiguousarray(parts["down_proj"]),
        router=parts.get("gate"),
        expert_size=config.expert_size,
        planes=rotary_planes(config),
        qk_norm=config.qk_norm,
        eps=min(eps),
    )
