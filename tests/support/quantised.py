"""Checkpoints in the formats that quantised releases come in, packed in plain Python.

Each packer takes a matrix [O, I] and returns the tensors that stand for it by ending, and the
values that the format says they have. Written from the descriptions of the formats, independently
of the package: words are filled by shifting whole numbers of any size.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

BF16, F16, F32 = ml_dtypes.bfloat16, np.float16, np.float32
E4M3 = ml_dtypes.float8_e4m3fn
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    F32,
)
FP4 = (
    np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3], F32) / 12
).astype(F32)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], F32)


class Packed(NamedTuple):
    """Tensors by ending, values [O, I], and what config.json says of them."""

    tensors: dict[str, np.ndarray]
    values: np.ndarray
    config: dict[str, Any]


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as int32 words, each row one long number."""
    rows = []
    for row in codes.tolist():
        number = sum(int(code) << (bits * place) for place, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append([(number >> (32 * k)) & 0xFFFFFFFF for k in range(count)])
    return np.array(rows, np.uint32).view(np.int32)


def fp8_blocks(w: np.ndarray, size: int = 128, dtype: Any = BF16) -> Packed:
    """fp8 with a scale for each block, as DeepSeek-V3 and Qwen3-FP8."""
    rows, columns = w.shape
    grid = np.zeros((-(-rows // size), -(-columns // size)), F32)
    codes, values = np.zeros(w.shape, E4M3), np.zeros(w.shape, dtype)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            at = np.s_[i * size : (i + 1) * size, j * size : (j + 1) * size]
            grid[i, j] = np.abs(w[at]).max() / 448
            codes[at] = (w[at] / grid[i, j]).astype(E4M3)
            values[at] = (codes[at].astype(F32) * grid[i, j]).astype(dtype)
    config = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [size, size]}
    return Packed({".weight": codes, ".weight_scale_inv": grid}, values, config)


def fp8_scaled(w: np.ndarray, *, rows: bool, scales: Any = BF16) -> Packed:
    """fp8 with one scale, or one a row, as compressed-tensors writes it."""
    top = np.abs(w).max(axis=1, keepdims=True) if rows else np.abs(w).max().reshape(1)
    scale = (top / 448).astype(scales)
    codes = np.clip(w / scale.astype(F32), -448, 448).astype(E4M3)
    values = (codes.astype(F32) * scale.astype(F32)).astype(scales if scales != F32 else BF16)
    weights = {"num_bits": 8, "type": "float", "strategy": "channel" if rows else "tensor"}
    config = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    tensors = {".weight": codes, ".weight_scale": scale, ".input_scale": np.ones(1, scales)}
    return Packed(tensors, values, config)


def int8_rows(w: np.ndarray) -> Packed:
    """int8 with a scale a row, as compressed-tensors writes it (int-quantized)."""
    scale = (np.abs(w).max(axis=1, keepdims=True) / 127).astype(BF16)
    codes = np.clip(np.rint(w / scale.astype(F32)), -128, 127).astype(np.int8)
    values = (codes.astype(F32) * scale.astype(F32)).astype(BF16)
    config = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    return Packed({".weight": codes, ".weight_scale": scale}, values, config)


def _affine(w: np.ndarray, bits: int, groups: np.ndarray, dtype: Any, *, symmetric: bool) -> Any:
    """Codes [O, I], zeros and scales [O, G], and values, for the group of each column."""
    count, most = int(groups.max()) + 1, (1 << bits) - 1
    scale = np.zeros((len(w), count), dtype)
    zero = np.full((len(w), count), 1 << (bits - 1))
    for g in range(count):
        part = w[:, groups == g]
        if symmetric:
            scale[:, g] = (2 * np.abs(part).max(axis=1) / most).astype(dtype)
        else:
            low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
            scale[:, g] = ((high - low) / most).astype(dtype)
            zero[:, g] = np.clip(np.rint(-low / scale[:, g].astype(F32)), 1, most)
    codes = np.rint(w / scale[:, groups].astype(F32)) + zero[:, groups]
    codes = np.clip(codes, 0, most).astype(np.int64)
    values = (codes - zero[:, groups]).astype(F32) * scale[:, groups].astype(F32)
    return codes, zero, scale, values.astype(dtype)


def gptq(
    w: np.ndarray,
    bits: int = 4,
    size: int = 32,
    *,
    order: bool = False,
    second: bool = False,
    symmetric: bool = False,
) -> Packed:
    """GPTQ; `order`: of activations, `second`: the format that stores zeros as they are."""
    groups = np.arange(w.shape[1]) // size
    if order:
        groups = np.random.default_rng(5).permutation(groups)
    codes, zero, scale, values = _affine(w, bits, groups, F16, symmetric=symmetric)
    tensors = {
        ".qweight": words(codes, bits).T.copy(),
        ".qzeros": words((zero - (not second)).T, bits),
        ".scales": scale.T.copy(),
        ".g_idx": groups.astype(np.int32),
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": order}
    config |= {"checkpoint_format": "gptq_v2"} if second else {}
    return Packed(tensors, values, config)


def awq(w: np.ndarray, size: int = 32) -> Packed:
    """AWQ in the layout of its GEMM kernel."""
    codes, zero, scale, values = _affine(w, 4, np.arange(w.shape[1]) // size, F16, symmetric=False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # column of each of a word's places

    def interleaved(table: np.ndarray) -> np.ndarray:
        return words(table.reshape(len(table), -1, 8)[..., order].reshape(len(table), -1), 4)

    tensors = {
        ".qweight": interleaved(codes.T),
        ".qzeros": interleaved(zero.T),
        ".scales": scale.T.copy(),
    }
    config = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm"}
    return Packed(tensors, values, config)


def pack_quantized(
    w: np.ndarray, bits: int = 4, size: int = 32, *, symmetric: bool = True, order: bool = False
) -> Packed:
    """compressed-tensors' pack-quantized."""
    groups = np.arange(w.shape[1]) // size
    if order:
        groups = np.random.default_rng(6).permutation(groups)
    codes, zero, scale, values = _affine(w, bits, groups, BF16, symmetric=symmetric)
    tensors = {
        ".weight_packed": words(codes, bits),
        ".weight_shape": np.array(w.shape, np.int64),
        ".weight_scale": scale,
    }
    if not symmetric:
        tensors[".weight_zero_point"] = words(zero.T, bits).T.copy()
    if order:
        tensors[".weight_g_idx"] = groups.astype(np.int32)
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": size}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    return Packed(tensors, values, config)


def bnb4(
    w: np.ndarray, kind: str = "nf4", size: int = 64, *, nested: bool = False, dtype: Any = BF16
) -> Packed:
    """bitsandbytes' nf4 or fp4."""
    table = NF4 if kind == "nf4" else FP4
    flat = w.astype(F32).reshape(-1)
    count = -(-len(flat) // size)
    padded = np.pad(flat, (0, count * size - len(flat))).reshape(count, size)
    absmax = np.abs(padded).max(axis=1)
    codes = np.abs((padded / absmax[:, None])[..., None] - table).argmin(axis=-1).reshape(-1)
    codes = codes[: len(flat) + len(flat) % 2]
    state = {"quant_type": kind, "blocksize": size, "shape": list(w.shape)}
    state["dtype"] = {BF16: "bfloat16", F16: "float16", F32: "float32"}[dtype]
    tensors = {
        ".weight": (codes[0::2] << 4 | codes[1::2]).astype(np.uint8).reshape(-1, 1),
        ".weight.quant_map": table,
        ".weight.absmax": absmax,
    }
    if nested:
        code, offset = np.linspace(-1, 1, 256, dtype=F32), F32(absmax.mean())
        blocks = -(-count // 256)
        rest = np.pad(absmax - offset, (0, blocks * 256 - count)).reshape(blocks, 256)
        top = np.abs(rest).max(axis=1)
        octets = np.abs((rest / top[:, None])[..., None] - code).argmin(axis=-1)
        octets = octets.astype(np.uint8)
        absmax = ((code[octets] * top[:, None]).reshape(-1)[:count] + offset).astype(F32)
        tensors[".weight.absmax"] = octets.reshape(-1)[:count]
        tensors |= {".weight.nested_absmax": top, ".weight.nested_quant_map": code}
        state |= {"nested_blocksize": 256, "nested_dtype": "float32"}
        state["nested_offset"] = float(offset)
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    tensors[f".weight.quant_state.bitsandbytes__{kind}"] = text
    values = (table[codes[: len(flat)]] * np.repeat(absmax, size)[: len(flat)]).astype(dtype)
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Packed(tensors, values.reshape(w.shape), config)


def bnb8(w: np.ndarray) -> Packed:
    """bitsandbytes' int8."""
    top = np.abs(w).max(axis=1).astype(F32)
    codes = np.rint(w / top[:, None] * 127).astype(np.int8)
    values = codes.astype(F32) * top[:, None] * F32(7.874015718698502e-3)
    tensors = {".weight": codes, ".SCB": top, ".weight_format": np.array(0, np.uint8)}
    return Packed(
        tensors, values.astype(BF16), {"quant_method": "bitsandbytes", "load_in_8bit": True}
    )


def mxfp4(w: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """gpt-oss' experts [E, I, O]: blocks and scales, and the values."""
    turned = np.swapaxes(w, 1, 2).astype(F32)
    groups = turned.reshape(*turned.shape[:2], -1, 32)
    exponent = np.floor(np.log2(np.abs(groups).max(axis=-1))) - 2
    scaled = groups / np.exp2(exponent)[..., None]
    codes = np.abs(scaled[..., None] - E2M1).argmin(axis=-1)
    values = (E2M1[codes] * np.exp2(exponent)[..., None].astype(F32)).reshape(turned.shape)
    tensors = {
        "_blocks": (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8),
        "_scales": (exponent + 127).astype(np.uint8),
    }
    return tensors, np.swapaxes(values, 1, 2).astype(BF16)


Pack = Callable[[np.ndarray], Packed]
PACKERS: Mapping[str, Pack] = {
    "fp8 blocks": fp8_blocks,
    "fp8 blocks in float16": lambda w: fp8_blocks(w, 32, F16),
    "fp8 tensor": lambda w: fp8_scaled(w, rows=False),
    "fp8 rows": lambda w: fp8_scaled(w, rows=True),
    "fp8 rows, float32 scales": lambda w: fp8_scaled(w, rows=True, scales=F32),
    "int8 rows": int8_rows,
    "GPTQ 2": lambda w: gptq(w, 2),
    "GPTQ 3": lambda w: gptq(w, 3),
    "GPTQ 4": gptq,
    "GPTQ 8": lambda w: gptq(w, 8),
    "GPTQ 4 in order of activations": lambda w: gptq(w, order=True),
    "GPTQ 4, second format": lambda w: gptq(w, second=True),
    "GPTQ 4, symmetric": lambda w: gptq(w, symmetric=True),
    "AWQ": awq,
    "compressed int4": pack_quantized,
    "compressed int8": lambda w: pack_quantized(w, 8),
    "compressed int4 with zeros": lambda w: pack_quantized(w, symmetric=False),
    "compressed int4 in order of activations": lambda w: pack_quantized(w, order=True),
    "nf4": bnb4,
    "nf4 nested": lambda w: bnb4(w, nested=True),
    "fp4": lambda w: bnb4(w, "fp4", dtype=F16),
    "bitsandbytes int8": bnb8,
}


def quantise(source: pathlib.Path, target: pathlib.Path, pack: Pack) -> dict[str, np.ndarray]:
    """Writes a checkpoint again with packed linear layers; returns the values of all tensors."""
    target.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    config = json.loads((source / "config.json").read_text())
    for name, tensor in load_file(source / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = values[name] = tensor
            continue
        packed = pack(tensor.astype(F32))
        stem = name.removesuffix(".weight")
        tensors |= {stem + ending: part for ending, part in packed.tensors.items()}
        values[name] = packed.values
        config["quantization_config"] = packed.config
    (target / "config.json").write_text(json.dumps(config))
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, target / "model.safetensors", metadata={"format": "pt"})
    for file in source.glob("*token*"):
        (target / file.name).write_bytes(file.read_bytes())
    return values


SHAPE = (96, 160)
X = "model.layers.0.mlp.up_proj"


def matrix(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Gaussian matrix of the size of a small model's weights."""
    return (0.05 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def write(
    directory: pathlib.Path, tensors: dict[str, Any], quantisation: Any = None, **config: Any
) -> pathlib.Path:
    """A checkpoint of tensors by ending, of an architecture without a name table."""
    directory.mkdir(exist_ok=True)
    fields = {"model_type": "novel", "torch_dtype": "bfloat16", **config}
    if quantisation is not None:
        fields["quantization_config"] = quantisation
    (directory / "config.json").write_text(json.dumps(fields))
    arrays = {X + ending: np.ascontiguousarray(array) for ending, array in tensors.items()}
    save_file(arrays, directory / "model.safetensors")
    return directory
