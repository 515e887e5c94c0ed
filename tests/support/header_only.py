"""Checkpoints of any size whose headers are real and whose values are holes of sparse files."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from svdjax.checkpoint.shards import header_of, write_index

SHARD = 8 << 30
DTYPE = np.dtype(ml_dtypes.bfloat16)


def deepseek_tensors(
    *, layers: int = 61, dense: int = 3, experts: int = 256, hidden: int = 7168, ffn: int = 2048
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a mixture of experts in DeepSeek-V3's layout, by default its sizes."""
    low, rank, rope, heads = 1536, 512, 64, 128
    yield "model.embed_tokens.weight", (129280, hidden)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        yield f"{at}self_attn.q_a_proj.weight", (low, hidden)
        yield f"{at}self_attn.q_a_layernorm.weight", (low,)
        yield f"{at}self_attn.q_b_proj.weight", (heads * 192, low)
        yield f"{at}self_attn.kv_a_proj_with_mqa.weight", (rank + rope, hidden)
        yield f"{at}self_attn.kv_a_layernorm.weight", (rank,)
        yield f"{at}self_attn.kv_b_proj.weight", (heads * 256, rank)
        yield f"{at}self_attn.o_proj.weight", (hidden, heads * 128)
        yield f"{at}input_layernorm.weight", (hidden,)
        yield f"{at}post_attention_layernorm.weight", (hidden,)
        if layer < dense:
            yield from _ffn(f"{at}mlp.", hidden, 9 * ffn)
            continue
        yield f"{at}mlp.gate.weight", (experts, hidden)
        yield f"{at}mlp.gate.e_score_correction_bias", (experts,)
        yield from _ffn(f"{at}mlp.shared_experts.", hidden, ffn)
        for expert in range(experts):
            yield from _ffn(f"{at}mlp.experts.{expert}.", hidden, ffn)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (129280, hidden)


def _ffn(prefix: str, hidden: int, wide: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}gate_proj.weight", (wide, hidden)
    yield f"{prefix}up_proj.weight", (wide, hidden)
    yield f"{prefix}down_proj.weight", (hidden, wide)


def write(folder: pathlib.Path, config: dict[str, object], **sizes: int) -> pathlib.Path:
    """Writes a checkpoint of `deepseek_tensors`; every value is 0, and takes no room on disk."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[list[tuple[str, tuple[int, ...], np.dtype]]] = [[]]
    filled = total = 0
    for name, shape in deepseek_tensors(**sizes):
        size = DTYPE.itemsize * int(np.prod(shape, dtype=np.int64))
        if filled + size > SHARD:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape, DTYPE))
        filled, total = filled + size, total + size
    index = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        head, spans = header_of(shard)
        with (folder / file).open("wb") as stream:
            stream.write(head)
            stream.truncate(max(stop for _, stop in spans.values()))
        index |= {name: file for name, _, _ in shard}
    write_index(folder, index, total)
    return folder


CONFIG: dict[str, object] = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
}
"""config.json of the default sizes, as far as it is read."""
