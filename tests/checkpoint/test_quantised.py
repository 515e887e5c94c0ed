"""Quantised checkpoints: values bit for bit, whichever rows are read; what is refused, and how.

Values are compared with those of an independent packer (`tests.support.quantised`) everywhere, and
with the code of transformers, bitsandbytes and compressed-tensors where these are installed.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.checkpoint import Checkpoint, load_params, model_config, open_checkpoint
from svdjax.checkpoint.quantised import DequantisedCheckpoint
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.errors import InputError
from svdjax.spectral.storage import ROUNDING
from tests.support import quantised as packs
from tests.support import tiny

SHAPE, X = packs.SHAPE, packs.X
matrix, write = packs.matrix, packs.write


def opened(directory: pathlib.Path, packed: packs.Packed) -> Checkpoint:
    kind = "float16" if packed.values.dtype == np.float16 else "bfloat16"
    return open_checkpoint(write(directory, packed.tensors, packed.config, torch_dtype=kind))


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    bits = f"u{found.dtype.itemsize}"
    np.testing.assert_array_equal(found.view(bits), expected.view(bits))


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", packs.PACKERS)
def test_values_bit_for_bit_whichever_rows_are_read(name: str, tmp_path: pathlib.Path) -> None:
    packed = packs.PACKERS[name](matrix())
    checkpoint = opened(tmp_path / "q", packed)
    assert isinstance(checkpoint, DequantisedCheckpoint)
    assert checkpoint.names == (f"{X}.weight",)
    spec = checkpoint.spec(f"{X}.weight")
    assert (spec.shape, spec.dtype) == (SHAPE, packed.values.dtype)
    whole = checkpoint.read(f"{X}.weight")
    assert_same_bits(whole, packed.values)
    for rows in ((0, 1), (7, 33), (31, 96), (50, 50), (90, 200)):
        assert_same_bits(checkpoint.read(f"{X}.weight", rows), packed.values[slice(*rows)])
    assert not checkpoint.stored(f"{X}.weight")
    assert checkpoint.where(f"{X}.weight") == tmp_path / "q" / "model.safetensors"


@pytest.mark.parametrize("name", packs.PACKERS)
def test_the_step_is_that_of_the_errors(name: str, tmp_path: pathlib.Path) -> None:
    w = matrix(1)
    packed = packs.PACKERS[name](w)
    checkpoint = opened(tmp_path / "q", packed)
    eps, step = checkpoint.precision(f"{X}.weight")
    rms = np.sqrt(np.mean(w.astype(np.float64) ** 2))
    errors = np.sqrt(np.mean((packed.values.astype(np.float64) - w) ** 2))
    # Codes of bitsandbytes are not quite equally frequent (the share of 0 and of the extreme ones
    # depends on the size of a block); all others are within 4 % here.
    assert np.hypot(ROUNDING * eps * rms, step) == pytest.approx(errors, rel=0.12)
    few = checkpoint.precision(f"{X}.weight", (3, 40))
    assert few == pytest.approx((eps, step), rel=0.3)


def test_strips_do_not_change_values(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svdjax.checkpoint.quantised import packed as module

    monkeypatch.setattr(module, "_ELEMENTS", 1000)  # 6 rows at a time, across blocks and bytes
    for name, pack in packs.PACKERS.items():
        # Rows that fill no word, and end within bytes and blocks, where the format knows such.
        odd = not name.startswith(("AWQ", "GPTQ"))
        packed = pack(
            matrix(2, (45, 168 if name in ("nf4", "nf4 nested", "fp4") else 160))
            if odd
            else matrix(2)
        )
        assert_same_bits(opened(tmp_path / "q", packed).read(f"{X}.weight"), packed.values)


@pytest.mark.parametrize("size", [128, 32])
def test_blocks_that_are_cut_off(tmp_path: pathlib.Path, size: int) -> None:
    # 200 rows in two blocks of 128: halves of 100 would fit the scales as well.
    packed = packs.fp8_blocks(matrix(3, (200, 333)), size)
    assert_same_bits(opened(tmp_path / "q", packed).read(f"{X}.weight"), packed.values)
    config = {"quant_method": "fp8"}  # no size: 128 is what is usual
    directory = write(tmp_path / "w", packed.tensors, config)
    if size == 128:
        assert_same_bits(open_checkpoint(directory).read(f"{X}.weight"), packed.values)


def test_scales_that_are_powers_of_two_and_stacks_of_experts(tmp_path: pathlib.Path) -> None:
    codes = matrix(4, (3, 64, 96)).astype(packs.E4M3)
    octets = np.random.default_rng(4).integers(110, 130, (3, 2, 3)).astype(np.uint8)
    scales = np.exp2(octets.astype(np.float32) - 127)
    expected = np.empty(codes.shape, packs.BF16)
    for e, i, j in np.ndindex(3, 2, 3):
        at = np.s_[e, 32 * i : 32 * (i + 1), 32 * j : 32 * (j + 1)]
        expected[at] = (codes[at].astype(np.float32) * scales[e, i, j]).astype(packs.BF16)
    for number, stored in enumerate((octets, octets.view(ml_dtypes.float8_e8m0fnu), scales)):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "config.json").write_text('{"model_type": "novel"}')
        tensors = {"m.experts.down_proj": codes, "m.experts.down_proj_scale_inv": stored}
        save_file(tensors, directory / "model.safetensors")
        checkpoint = open_checkpoint(directory)
        assert_same_bits(checkpoint.read("m.experts.down_proj"), expected)
        assert_same_bits(checkpoint.read("m.experts.down_proj", (1, 2)), expected[1:2])


def test_mxfp4_experts(tmp_path: pathlib.Path) -> None:
    w = matrix(5, (3, 64, 40))
    tensors, expected = packs.mxfp4(w)
    name = ".experts.gate_up_proj"
    bias = np.zeros((3, 40), packs.BF16)
    parts = {name + ending: part for ending, part in tensors.items()}
    checkpoint = open_checkpoint(write(tmp_path / "q", {**parts, f"{name}_bias": bias}))
    assert checkpoint.names == (X + name, f"{X}{name}_bias")
    assert_same_bits(checkpoint.read(X + name), expected)
    assert_same_bits(checkpoint.read(X + name, (1, 3)), expected[1:3])
    assert checkpoint.packed(X + name) == "MXFP4"
    eps, step = checkpoint.precision(X + name)
    rms = np.sqrt(np.mean(w.astype(np.float64) ** 2))
    errors = np.sqrt(np.mean((expected.astype(np.float64) - w) ** 2))
    # Few binades, and the lowest of them evenly spaced.
    assert np.hypot(ROUNDING * eps * rms, step) == pytest.approx(errors, rel=0.12)


def test_zeros_of_gptq_that_borrow(tmp_path: pathlib.Path) -> None:
    # A zero of 0 in the first format: the word less 0x11111111, as GPTQModel writes it.
    packed = packs.gptq(matrix(6), second=True)
    plain = packed.tensors[".qzeros"].view(np.uint32) & ~np.uint32(0xF0)
    packed.tensors[".qzeros"] = plain.view(np.int32)
    second = opened(tmp_path / "second", packed).read(f"{X}.weight")
    packed.tensors[".qzeros"] = (plain - np.uint32(0x11111111)).view(np.int32)
    config = {**packed.config, "checkpoint_format": "gptq"}
    first = opened(tmp_path / "first", packed._replace(config=config)).read(f"{X}.weight")
    assert_same_bits(first, second)


def test_gptq_needs_no_config(tmp_path: pathlib.Path) -> None:
    packed = packs.gptq(matrix(7))
    del packed.tensors[".g_idx"]
    checkpoint = open_checkpoint(write(tmp_path / "q", packed.tensors))
    assert_same_bits(checkpoint.read(f"{X}.weight"), packed.values)
    assert checkpoint.packed(f"{X}.weight") == "GPTQ (4 bits)"


# --- the libraries' own code -------------------------------------------------------------------


def assert_equal_values(found: np.ndarray, expected: Any) -> None:
    """Equal numbers; zeros of either sign (fp4 has two codes for zero)."""
    assert found.shape == tuple(expected.shape)
    np.testing.assert_array_equal(found.astype(np.float64), expected.double().numpy())


def from_torch(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    """Torch tensors by ending, as numpy's of the same bytes."""
    import torch

    names = {torch.bfloat16: packs.BF16, torch.float8_e4m3fn: packs.E4M3}
    arrays = {}
    for ending, tensor in tensors.items():
        tensor = tensor.contiguous()
        kind = names.get(tensor.dtype)
        octets = tensor.view(torch.uint8).numpy().view(kind) if kind and tensor.ndim else None
        arrays[ending] = tensor.numpy() if octets is None else octets.reshape(tensor.shape)
    return arrays


def test_transformers_fp8_and_mxfp4(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    torch.manual_seed(0)
    codes = (torch.randn(256, 384) * 50).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 3)
    tensors = from_torch({".weight": codes, ".weight_scale_inv": scales})
    found = open_checkpoint(write(tmp_path / "fp8", tensors)).read(f"{X}.weight")
    assert_equal_values(
        found, fp8.Fp8Dequantize(None)._dequantize_one(codes, scales, torch.bfloat16)
    )
    blocks = torch.randint(0, 256, (3, 8, 4, 16), dtype=torch.uint8)
    powers = torch.randint(0, 250, (3, 8, 4), dtype=torch.uint8)
    tensors = from_torch({"_blocks": blocks, "_scales": powers})
    found = open_checkpoint(write(tmp_path / "mxfp4", tensors)).read(X)
    assert_equal_values(found, mxfp4.convert_moe_packed_tensors(blocks, powers))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_4_bits(tmp_path: pathlib.Path, kind: str, nested: bool) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(0)
    for number, dtype in enumerate((torch.bfloat16, torch.float16, torch.float32)):
        # Rows of whole blocks: bitsandbytes 0.50's CPU kernel is wrong for others.
        codes, state = functional.quantize_4bit(
            torch.randn(70, 192).to(dtype), quant_type=kind, compress_statistics=nested
        )
        parts = {f".weight.{key}": part for key, part in state.as_dict(packed=True).items()}
        directory = write(tmp_path / str(number), from_torch({".weight": codes, **parts}))
        found = open_checkpoint(directory).read(f"{X}.weight")
        assert_equal_values(found, functional.dequantize_4bit(codes, state))


def test_bitsandbytes_8_bits(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(0)
    codes, scales, _ = functional.int8_vectorwise_quant(torch.randn(96, 160).half())
    tensors = from_torch({".weight": codes, ".SCB": scales})
    found = open_checkpoint(write(tmp_path / "q", tensors, torch_dtype="float16"))
    expected = functional.int8_vectorwise_dequant(codes, scales).half()
    assert_equal_values(found.read(f"{X}.weight"), expected)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
        (
            "pack-quantized",
            {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
        ),
        ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
        ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
        ("float-quantized", {"num_bits": 8, "strategy": "channel", "type": "float"}),
        ("float-quantized", {"num_bits": 8, "strategy": "tensor", "type": "float"}),
    ],
)
def test_compressed_tensors(tmp_path: pathlib.Path, kind: str, weights: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    torch.manual_seed(0)
    w = 0.05 * torch.randn(96, 160).bfloat16()
    arguments = quantization.QuantizationArgs(**weights)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    groups = w.reshape(96, -1, 32) if weights["strategy"] == "group" else w.reshape(96, 1, 160)
    top = groups.abs().amax(-1) if weights["strategy"] != "tensor" else w.abs().max().reshape(1)
    most = 448 if weights.get("type") == "float" else 2 ** (weights["num_bits"] - 1) - 1
    state = {"weight": w, "weight_scale": (top / most).bfloat16()}
    if not weights.get("symmetric", True):
        state["weight_zero_point"] = torch.randint(-3, 4, (96, 5), dtype=torch.int8)
    compressor = compressors.BaseCompressor.get_value_from_registry(kind)
    packed = compressor.compress(state, scheme)
    config = {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    tensors = from_torch({f".{key}": part for key, part in packed.items()})
    found = open_checkpoint(write(tmp_path / "q", tensors, config)).read(f"{X}.weight")
    assert_equal_values(found, compressor.decompress(packed, scheme)["weight"])


# --- what is around the matrices ---------------------------------------------------------------


def test_scales_of_activations_are_left_aside(tmp_path: pathlib.Path) -> None:
    packed = packs.fp8_scaled(matrix(), rows=False)
    tensors = packed.tensors | {
        ".k_scale": np.ones(1, np.float32),
        ".bias": np.ones(96, packs.BF16),
    }
    checkpoint = open_checkpoint(write(tmp_path / "q", tensors, packed.config))
    assert checkpoint.names == (f"{X}.bias", f"{X}.weight")
    assert f"{X}.input_scale" not in checkpoint
    assert checkpoint.stored(f"{X}.bias")
    assert checkpoint.packed(f"{X}.bias") == ""
    assert "2 scales of activations such as" in checkpoint.notes[1]
    assert "is quantised: 1 matrices are read as bfloat16" in checkpoint.notes[0]
    with pytest.raises(InputError, match="has no tensor"):
        checkpoint.read(f"{X}.input_scale")
    assert "quantization_config" not in checkpoint.config


def test_left_over_declarations_are_notes(tmp_path: pathlib.Path) -> None:
    for number, declared in enumerate(({"quant_method": "gptq"}, "awq", {"bits": 4}, [1])):
        tensors = {".weight": matrix().astype(packs.BF16), ".ids": np.arange(3)}
        checkpoint = open_checkpoint(write(tmp_path / str(number), tensors, declared))
        (note,) = checkpoint.notes
        assert "the tensors are plain floats: they are read as they are" in note
        assert "quantization_config" not in checkpoint.config
        assert checkpoint.stored(f"{X}.weight")


@pytest.mark.parametrize("name", ["fp8 blocks", "GPTQ 4", "nf4 nested"])
def test_models_are_loaded(name: str, tmp_path: pathlib.Path) -> None:
    source = tiny.make_checkpoint(tmp_path / "plain", "llama", dtype="bfloat16")
    values = packs.quantise(source, tmp_path / "q", packs.PACKERS[name])
    checkpoint = open_checkpoint(tmp_path / "q")
    params = load_params(checkpoint, model_config(tmp_path / "q"))
    kernel = params["layers"]["mlp"]["up_proj"]["kernel"][1]
    expected = values["model.layers.1.mlp.up_proj.weight"].astype(np.float32).T
    np.testing.assert_array_equal(kernel, expected)


def test_parts_in_several_files(tmp_path: pathlib.Path) -> None:
    source = tiny.make_checkpoint(tmp_path / "plain", "llama", dtype="bfloat16")
    values = packs.quantise(source, tmp_path / "q", packs.fp8_blocks)
    physical = Checkpoint(tmp_path / "q")
    tensors = {name: physical.read(name) for name in physical.names}
    (tmp_path / "q" / "model.safetensors").unlink()
    scales = {name: part for name, part in tensors.items() if name.endswith("_scale_inv")}
    index = {}
    for number, part in enumerate((scales, {n: tensors[n] for n in tensors.keys() - scales}), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file(part, tmp_path / "q" / file)
        index |= dict.fromkeys(part, file)
    index_file = tmp_path / "q" / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"weight_map": index}))
    checkpoint = open_checkpoint(tmp_path / "q")
    for name, tensor in values.items():
        assert_same_bits(checkpoint.read(name), tensor)
    with CheckpointRewrite(checkpoint, tmp_path / "out", replaced=[], identity=0) as rewrite:
        assert list(rewrite.copy()) == ["model-00002-of-00002.safetensors"]
        rewrite.finish("")
    copy = open_checkpoint(tmp_path / "out")
    assert copy.names == checkpoint.names
    assert all(copy.stored(name) for name in copy.names)
    assert copy.notes == ()
    for name, tensor in values.items():
        assert_same_bits(copy.read(name), tensor)


def test_experts_of_gpt_oss_as_matrices(tmp_path: pathlib.Path) -> None:
    w = matrix(8, (3, 64, 64))
    tensors, expected = packs.mxfp4(w)
    stem = ".experts.gate_up_proj"
    down, _ = packs.mxfp4(matrix(9, (3, 32, 64)))
    parts = {stem + ending: part for ending, part in tensors.items()}
    parts |= {f".experts.down_proj{ending}": part for ending, part in down.items()}
    directory = tmp_path / "q"
    directory.mkdir()
    fields = {"model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 32}
    (directory / "config.json").write_text(json.dumps(fields))
    arrays = {f"model.layers.0.mlp{key}": np.ascontiguousarray(a) for key, a in parts.items()}
    save_file(arrays, directory / "model.safetensors")
    checkpoint = open_checkpoint(directory)
    name = "model.layers.0.mlp.experts.1.gate_proj.weight"
    assert_same_bits(checkpoint.read(name), np.ascontiguousarray(expected[1][:, 0::2].T))
    assert checkpoint.packed(name) == "MXFP4"
    assert checkpoint.precision(name) == (0.5, 0.0)
