"""Pairs of tiny checkpoints of the kinds that people hold: rows of docs/checkpoints.md."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from tests.support import adapters, held, quantised, tiny

Make = Callable[[pathlib.Path], tuple[pathlib.Path, pathlib.Path]]
"""Writes base and post into a folder, in the place of those that are there."""


class Kind(NamedTuple):
    """A kind of checkpoint: its table, its name, and what writes a pair of it."""

    table: str
    name: str
    make: Make


def _family(family: str, **changes: object) -> Make:
    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        base = tiny.make_checkpoint(folder / "base", family, seed=1, **changes)  # type: ignore[arg-type]
        return base, tiny.perturb(base, folder / "post", seed=2)

    return make


def _held(change: Callable[[held.Tensors], held.Tensors], **config: object) -> Make:
    """A llama, and the same trained further and written in another way."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        plain, tensors = held.model()
        base = held.write(folder / "base", plain, tensors)
        return base, held.write(folder / "post", plain | config, change(held.moved(tensors)))

    return make


def _renamed(rename: Callable[[str], str], **config: object) -> Make:
    return _held(lambda tensors: held.renamed(tensors, rename), **config)


def _mixture(
    change: Callable[[held.Tensors], held.Tensors],
    width: int = 12,
    dense: bool = False,
    **config: object,
) -> Make:
    """A mixture of experts, and the same trained further and written in another way."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        plain, tensors = held.model("qwen3")
        plain |= {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
        plain |= {"moe_intermediate_size": width, "norm_topk_prob": True}
        tensors = held.experts(tensors, 4, width)
        if dense:
            plain |= {"mlp_only_layers": [0]}
            tensors = {n: t for n, t in tensors.items() if ".layers.0.mlp." not in n} | {
                n: t for n, t in held.model("qwen3")[1].items() if ".layers.0.mlp." in n
            }
        base = held.write(folder / "base", plain, tensors)
        return base, held.write(folder / "post", plain | config, change(held.moved(tensors)))

    return make


def _deepseek(pack: quantised.Pack | None = None) -> Make:
    """A model in DeepSeek-V3's layout: low-rank attention, a dense layer, shared experts."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        config, tensors = held.model()
        config |= {"model_type": "deepseek_v3", "n_routed_experts": 4, "first_k_dense_replace": 1}
        mixed = held.experts(tensors, 4, 12)
        dense = {name: value for name, value in tensors.items() if ".layers.0.mlp." in name}
        mixed = dense | {n: value for n, value in mixed.items() if ".layers.0.mlp." not in n}
        mixed = {n: v for n, v in mixed.items() if not n.endswith(_REPLACED)}
        rng = np.random.default_rng(5)
        shapes = {f"self_attn.{name}": shape for name, shape in _LATENT.items()}
        for layer in range(3):
            experts = {f"mlp.shared_experts.{n}": shape for n, shape in _SHARED.items()}
            for name, shape in (shapes | (experts if layer else {})).items():
                value = rng.standard_normal(shape).astype(np.float32) / 4
                mixed[f"model.layers.{layer}.{name}.weight"] = value
        base = held.write(folder / "base", config, mixed)
        trained = folder / ("trained" if pack else "post")
        held.write(trained, config, held.moved(mixed))
        if not pack:
            return base, trained
        quantised.quantise(trained, folder / "post", pack)
        return base, folder / "post"

    return make


_LATENT = {"q_a_proj": (12, 32), "q_b_proj": (48, 12), "kv_a_proj_with_mqa": (12, 32)}
_LATENT |= {"kv_b_proj": (64, 8), "o_proj": (32, 32)}
_SHARED = {"gate_proj": (12, 32), "up_proj": (12, 32), "down_proj": (32, 12)}
_REPLACED = tuple(f".{name}_proj.weight" for name in "qkv")


def _mxfp4(tensors: held.Tensors) -> held.Tensors:
    packed: held.Tensors = {}
    for name, value in held.fused(tensors, "gpt_oss").items():
        if name.endswith(("gate_up_proj", "down_proj")):
            packed |= {name + end: part for end, part in quantised.mxfp4(value)[0].items()}
        else:
            packed[name] = value
    return packed


def _packed(pack: quantised.Pack) -> Make:
    """A llama, and the same trained further and quantised."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        base = tiny.make_checkpoint(folder / "base", "llama", seed=1)
        trained = tiny.perturb(base, folder / "trained", seed=2)
        quantised.quantise(trained, folder / "post", pack)
        return base, folder / "post"

    return make


def _unknown_pack(method: str, *endings: str) -> quantised.Pack:
    """Tensors of another format, by their endings."""

    def pack(weight: np.ndarray) -> quantised.Packed:
        tensors = {ending: np.ones((8, 8), np.uint8) for ending in endings}
        return quantised.Packed(tensors, weight, {"quant_method": method})

    return pack


def _left_over(weight: np.ndarray) -> quantised.Packed:
    plain = weight.astype(quantised.BF16)
    return quantised.Packed({".weight": plain}, plain, {"quant_method": "fp8"})


def _edited(edit: Callable[[pathlib.Path], None], **options: object) -> Make:
    """A llama, and the same trained further, in a directory that is edited."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        base, post = _family("llama", **options)(folder)
        edit(post)
        return base, post

    return make


def _adapter(change: Callable[[pathlib.Path], None] = lambda _: None, **options: Any) -> Make:
    """A llama, and an adapter of it, in a directory that is changed."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        base = tiny.make_checkpoint(folder / "base", "llama", seed=1)
        adapter = adapters.make_adapter(folder / "post", base, **options)
        change(adapter)
        return base, adapter

    return make


def _with(tensors: Mapping[str, tuple[int, ...]], **config: Any) -> Make:
    """An adapter with further tensors of these shapes, and fields of its configuration."""

    def change(folder: pathlib.Path) -> None:
        rng = np.random.default_rng(4)
        made = {
            name: np.abs(rng.standard_normal(shape)).astype(np.float32)
            for name, shape in tensors.items()
        }
        adapters.edit_tensors(folder, **made)
        adapters.edit(folder, **config)

    return _adapter(change)


def _of_quantised(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A llama in nf4, and an adapter that was trained on it."""
    plain = tiny.make_checkpoint(folder / "plain", "llama", seed=1)
    adapter = adapters.make_adapter(folder / "post", plain)
    quantised.quantise(plain, folder / "base", quantised.bnb4)
    return folder / "base", adapter


def _rename_file(old: str, new: str) -> Callable[[pathlib.Path], None]:
    return lambda folder: (folder / old).rename(folder / new) and None


def _without_index(folder: pathlib.Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def _drop_shard(folder: pathlib.Path) -> None:
    next(folder.glob("model-00002*")).unlink()


def _cut(folder: pathlib.Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _nonfinite(folder: pathlib.Path) -> None:
    tensors = tiny.read_tensors(folder)
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.nan
    tiny.write_checkpoint(folder, json.loads((folder / "config.json").read_text()), tensors)


def _orbax(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    base, post = _family("llama")(folder)
    with open_checkpoint(post) as checkpoint:
        params = load_params(checkpoint, model_config(post), None)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager((folder / "run").absolute(), options=options) as manager:
        manager.save(3, args=ocp.args.StandardSave(params))
    shutil.copy(post / "config.json", folder / "run")
    return base, folder / "run" / "3"


FAMILIES, NAMES, EXPERTS = "Families", "Names and layouts", "Mixtures of experts"
QUANTISED, FILES, ADAPTERS = "Quantised releases", "Files", "Adapters"

_PACKED = {
    "fp8, blocks of 128 × 128 (DeepSeek-V3, Qwen3-FP8)": "fp8 blocks",
    "fp8, a scale a tensor": "fp8 tensor",
    "fp8, a scale a row (compressed-tensors)": "fp8 rows",
    "int8, a scale a row (compressed-tensors)": "int8 rows",
    "int4 (compressed-tensors)": "compressed int4 with zeros",
    "GPTQ, 3 bits": "GPTQ 3",
    "GPTQ, 4 bits": "GPTQ 4",
    "GPTQ, 4 bits, in order of activations": "GPTQ 4 in order of activations",
    "AWQ, 4 bits": "AWQ",
    "bitsandbytes nf4, nested": "nf4 nested",
    "bitsandbytes fp4": "fp4",
    "bitsandbytes int8": "bitsandbytes int8",
}
_EMBEDDING = "model.embed_tokens"
_ENDS = {
    f"{_EMBEDDING}.lora_embedding_A": (4, 128),
    f"{_EMBEDDING}.lora_embedding_B": (64, 4),
    "lm_head.lora_A.weight": (4, 64),
    "lm_head.lora_B.weight": (128, 4),
}
_TARGETS = ["q_proj", "down_proj", "lm_head", "embed_tokens"]
_RESIZED = {f"{_EMBEDDING}.weight": (130, 64), "lm_head.weight": (130, 64)}
_MAGNITUDES = {
    f"model.layers.{layer}.{module}.lora_magnitude_vector": (64,)
    for layer in range(4)
    for module in ("self_attn.q_proj", "mlp.down_proj")
}

KINDS = (
    *(Kind(FAMILIES, family, _family(family)) for family in tiny.FAMILIES),
    Kind(NAMES, "plain", _held(dict)),
    Kind(NAMES, "without `model.`", _renamed(lambda name: name.removeprefix("model."))),
    Kind(NAMES, "`_orig_mod.` (torch.compile)", _renamed(lambda name: f"_orig_mod.{name}")),
    Kind(NAMES, "`module.` (DDP)", _renamed(lambda name: f"module.{name}")),
    Kind(NAMES, "`base_model.model.` (PEFT)", _renamed(lambda name: f"base_model.model.{name}")),
    Kind(
        NAMES,
        "`model.language_model.` (the text part of a vision-language model)",
        _renamed(lambda name: name.replace("model.", "model.language_model.")),
    ),
    Kind(NAMES, "another `model_type`, known", _held(dict, model_type="mistral")),
    Kind(NAMES, "another `model_type`, unknown", _held(dict, model_type="my_llama")),
    Kind(
        NAMES,
        "phi3's fused projections against their parts",
        _held(held.fused_dense, model_type="phi3", rope_scaling=None, partial_rotary_factor=1.0),
    ),
    Kind(
        NAMES,
        "two layers of three",
        _held(lambda tensors: held.relayered(tensors, (0, 2)), num_hidden_layers=2),
    ),
    Kind(
        NAMES,
        "one layer twice",
        _held(lambda tensors: held.relayered(tensors, (0, 1, 1, 2)), num_hidden_layers=4),
    ),
    Kind(
        NAMES,
        "without lm_head",
        _held(lambda tensors: {n: t for n, t in tensors.items() if n != "lm_head.weight"}),
    ),
    Kind(EXPERTS, "an expert a tensor (qwen3_moe)", _mixture(dict)),
    Kind(EXPERTS, "mixtral's names", _mixture(held.mixtral)),
    Kind(
        EXPERTS,
        "fused, `[experts, out, in]` (transformers 5)",
        _mixture(lambda t: held.fused(t, "out")),
    ),
    Kind(
        EXPERTS,
        "fused, `[experts, in, out]` (llama4)",
        _mixture(lambda t: held.fused(t, "in"), model_type="llama4_text"),
    ),
    Kind(
        EXPERTS,
        "gate and up alternating (gpt_oss)",
        _mixture(lambda t: held.fused(t, "gpt_oss"), model_type="gpt_oss"),
    ),
    Kind(EXPERTS, "deepseek_v3: low-rank attention, a dense layer, shared experts", _deepseek()),
    Kind(
        EXPERTS,
        "a layer without experts (`mlp_only_layers`)",
        _mixture(dict, dense=True),
    ),
    *(Kind(QUANTISED, name, _packed(quantised.PACKERS[key])) for name, key in _PACKED.items()),
    Kind(
        QUANTISED,
        "MXFP4 experts (gpt-oss)",
        _mixture(_mxfp4, 32, model_type="gpt_oss", quantization_config={"quant_method": "mxfp4"}),
    ),
    Kind(QUANTISED, "fp8, blocks, of deepseek_v3", _deepseek(quantised.fp8_blocks)),
    Kind(QUANTISED, "a left-over `quantization_config`", _packed(_left_over)),
    Kind(
        QUANTISED,
        "NVFP4 (compressed-tensors)",
        _packed(
            _unknown_pack(
                "nvfp4-pack-quantized", ".weight_packed", ".weight_scale", ".weight_global_scale"
            )
        ),
    ),
    Kind(QUANTISED, "HQQ", _packed(_unknown_pack("hqq", ".W_q", ".meta"))),
    Kind(FILES, "one file, bf16", _family("llama")),
    Kind(FILES, "one file, f16", _family("llama", dtype="float16")),
    Kind(FILES, "one file, f32", _family("llama", dtype="float32")),
    Kind(FILES, "shards and their index", _family("llama", shards=3)),
    Kind(FILES, "shards without an index", _edited(_without_index, shards=3)),
    Kind(
        FILES,
        "a variant alone (`model.fp16.safetensors`)",
        _edited(_rename_file("model.safetensors", "model.fp16.safetensors")),
    ),
    Kind(FILES, "a step that Orbax's CheckpointManager wrote", _orbax),
    Kind(FILES, "a shard is missing", _edited(_drop_shard, shards=3)),
    Kind(FILES, "a file is cut off", _edited(_cut)),
    Kind(FILES, "NaN in a compared matrix", _edited(_nonfinite)),
    Kind(FILES, "pickles", _edited(_rename_file("model.safetensors", "pytorch_model.bin"))),
    Kind(FILES, "GGUF", _edited(_rename_file("model.safetensors", "model.gguf"))),
    Kind(
        FILES,
        "`consolidated.safetensors` alone (Mistral's own layout)",
        _edited(_rename_file("model.safetensors", "consolidated.safetensors")),
    ),
    Kind(FILES, "no config.json", _edited(lambda folder: (folder / "config.json").unlink())),
    Kind(ADAPTERS, "LoRA", _adapter()),
    Kind(ADAPTERS, "rsLoRA", _adapter(use_rslora=True)),
    Kind(ADAPTERS, "DoRA", _with(_MAGNITUDES, use_dora=True)),
    Kind(ADAPTERS, "LoRA of embedding and head", _with(_ENDS, target_modules=_TARGETS)),
    Kind(ADAPTERS, "saved embedding and head (`modules_to_save`, resized)", _with(_RESIZED)),
    Kind(
        ADAPTERS,
        "trained tokens",
        _with(
            {f"{_EMBEDDING}.token_adapter.trainable_tokens_delta": (2, 64)},
            trainable_token_indices=[1, 2],
        ),
    ),
    Kind(
        ADAPTERS,
        "a score head",
        _with({"score.weight": (1, 64)}, task_type="SEQ_CLS", modules_to_save=["score"]),
    ),
    Kind(ADAPTERS, "into a base in nf4", _of_quantised),
    Kind(ADAPTERS, "PiSSA, not converted", _with({}, init_lora_weights="pissa")),
    Kind(
        ADAPTERS,
        "another method (IA3)",
        _adapter(lambda folder: adapters.edit(folder, peft_type="IA3")),
    ),
    Kind(
        ADAPTERS,
        "an adapter as a pickle",
        _adapter(_rename_file("adapter_model.safetensors", "adapter_model.bin")),
    ),
)
"""All kinds, table by table."""
