"""Quantised checkpoints that are refused: one line that names file and tensor, and what to do."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.errors import InputError
from tests.support import quantised as packs
from tests.support import tiny

X = packs.X
matrix, write = packs.matrix, packs.write


def read_all(directory: pathlib.Path) -> None:
    checkpoint = open_checkpoint(directory)
    for name in checkpoint.names:
        checkpoint.precision(name)
        # Damaged files of some kilobytes.
        assert checkpoint.read(name).nbytes <= 1 << 20


def refusal(directory: pathlib.Path) -> str:
    with pytest.raises(InputError) as caught:
        read_all(directory)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1500
    assert str(directory) in text
    return text


@pytest.mark.parametrize(
    ("name", "ending", "change", "words"),
    [
        ("fp8 blocks", ".weight_scale_inv", lambda a: a[:1, :1].repeat(7, 0), "7 x 1 scales"),
        ("fp8 blocks", ".weight_scale_inv", lambda a: a.astype(np.int32), "is int32, expected"),
        ("fp8 rows", ".weight_scale", lambda a: a[:-1], "95 x 1 scales"),
        ("fp8 tensor", ".weight", lambda a: a.view(np.uint8), "is uint8, expected float8_e4m3fn"),
        ("fp8 tensor", ".weight", lambda a: a[0], "has shape (160,), expected 2 axes"),
        ("GPTQ 4", ".qzeros", lambda a: a[:, :-1], "has 11 columns for 96 outputs"),
        ("GPTQ 4", ".qzeros", lambda a: a[:-1], "expected (5, 12): a row for each"),
        ("GPTQ 4", ".scales", lambda a: a[:, :50], "fits neither GPTQ nor AWQ"),
        ("GPTQ 4", ".g_idx", lambda a: a + 10**9, "names the groups 1000000000 to 1000000004"),
        ("GPTQ 4", ".g_idx", lambda a: -a, "names the groups -4 to 0"),
        ("GPTQ 4", ".g_idx", lambda a: a[1:], "expected (160,): the group of each input"),
        ("GPTQ 4", ".scales", None, "has no model.layers.0.mlp.up_proj.scales beside it"),
        ("AWQ", ".qzeros", lambda a: a[:, :-1], "expected (5, 12)"),
        ("compressed int4", ".weight_shape", lambda a: a * 10**12, "says [96000000000000"),
        ("compressed int4", ".weight_shape", lambda a: -a, "says [-96, -160]"),
        ("compressed int4", ".weight_shape", lambda a: a[:1], "expected (2,): rows and columns"),
        ("compressed int4", ".weight_scale", lambda a: a[:, :-1].T, "for a matrix of shape"),
        ("nf4", ".weight.absmax", lambda a: a[:-1], "expected (240,): one for each block"),
        ("nf4", ".weight.quant_map", lambda a: a[:-1], "expected (16,)"),
        ("nf4", ".weight", lambda a: a[:-10], "bytes, expected two codes"),
        ("nf4", ".weight.quant_map", None, "has no model.layers.0.mlp.up_proj.weight.quant_map"),
        ("nf4 nested", ".weight.nested_absmax", lambda a: a[:0], "expected values"),
        ("bitsandbytes int8", ".SCB", lambda a: a[:-1], "expected (96,): one for each row"),
        ("bitsandbytes int8", ".weight_format", lambda a: a + 2, "a layout for one kind of GPU"),
    ],
)
def test_parts_that_do_not_fit(
    name: str, ending: str, change: Any, words: str, tmp_path: pathlib.Path
) -> None:
    packed = packs.PACKERS[name](matrix())
    if change is None:
        del packed.tensors[ending]
    else:
        packed.tensors[ending] = change(packed.tensors[ending])
    text = refusal(write(tmp_path / "q", packed.tensors, packed.config))
    assert words in text
    assert X in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [10**9, 10**9]}, "bytes, expected two codes"),
        ({"shape": [10**30, 1]}, "expected a whole number"),
        ({"shape": []}, "has the shape []"),
        ({"blocksize": 0}, "blocksize: expected a whole number"),
        ({"blocksize": 63}, "expected an even one"),
        ({"quant_type": "af4"}, "'af4', expected nf4 or fp4"),
        ({"quant_type": None}, "'', expected nf4 or fp4"),
        ({"dtype": "int8"}, "'int8', expected bfloat16"),
        ({"nested_offset": float("inf")}, "nested_offset: expected a number"),
        ({"nested_blocksize": 10**9}, "nested_blocksize: expected a whole number"),
    ],
)
def test_states_of_bitsandbytes(change: dict[str, Any], words: str, tmp_path: pathlib.Path) -> None:
    packed = packs.bnb4(matrix(), nested=True)
    key = ".weight.quant_state.bitsandbytes__nf4"
    state = json.loads(packed.tensors[key].tobytes()) | change
    packed.tensors[key] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    assert words in refusal(write(tmp_path / "q", packed.tensors))


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "'marlin' of GPTQ weights"),
        ({"quant_method": "gptq", "group_size": "x"}, "group_size: expected a whole number"),
        ({"quant_method": "gptq", "weight_block_size": [128]}, "expected two whole numbers"),
        ({"quant_method": "gptq", "weight_block_size": [0, 10**40]}, "expected a whole number"),
        ([1], "quantization_config: expected an object"),
    ],
)
def test_declarations_that_make_no_sense(declared: Any, words: str, tmp_path: pathlib.Path) -> None:
    assert words in refusal(write(tmp_path / "q", packs.gptq(matrix()).tensors, declared))


@pytest.mark.parametrize(
    ("endings", "method"),
    [
        ((".W_q", ".meta"), "hqq"),
        ((".codes", ".codebooks"), "aqlm"),
        ((".weight", ".weight_scales"), "eetq"),
        ((".q_weight", ".q_scale"), "exl2"),
        ((".weight", ".weight_scale", ".weight_scale_2"), "modelopt"),
        ((".weight_packed", ".weight_scale", ".weight_global_scale"), "nvfp4-pack-quantized"),
        ((".weight",), "quanto"),
    ],
)
def test_other_methods_are_refused_by_name(
    endings: tuple[str, ...], method: str, tmp_path: pathlib.Path
) -> None:
    tensors = {ending: np.ones((8, 8), np.int8) for ending in endings}
    text = refusal(write(tmp_path / "q", tensors, {"quant_method": method}))
    assert method in text
    assert "fp8, int8, MXFP4, GPTQ, AWQ, bitsandbytes or compressed-tensors" in text


def test_codes_without_scales_are_no_numbers(tmp_path: pathlib.Path) -> None:
    text = refusal(write(tmp_path / "a", {".weight": matrix().astype(packs.E4M3)}, {"a": 1}))
    assert "float8_e4m3fn" in text
    packed = packs.fp8_blocks(matrix())
    codes = packed.tensors[".weight"]
    text = refusal(write(tmp_path / "b", {**packed.tensors, ".other.weight": codes}))
    assert f"tensor {X}.other.weight is float8_e4m3fn without a scale" in text


def test_values_that_are_no_numbers_are_told(tmp_path: pathlib.Path) -> None:
    source = tiny.make_checkpoint(tmp_path / "plain", "llama", dtype="bfloat16")

    def poisoned(w: np.ndarray) -> packs.Packed:
        packed = packs.fp8_blocks(w)
        packed.tensors[".weight_scale_inv"][0, 0] = np.nan
        return packed

    packs.quantise(source, tmp_path / "q", poisoned)
    with pytest.raises(InputError, match=r"tensor model\.layers.*_proj\.weight holds .* NaN"):
        load_params(open_checkpoint(tmp_path / "q"), model_config(tmp_path / "q"))


@pytest.mark.parametrize("seed", range(6))
def test_damaged_parts_are_one_line(seed: int, tmp_path: pathlib.Path) -> None:
    """Parts of other shapes, dtypes and values: an `InputError`, or a matrix of bounded size."""
    rng = np.random.default_rng(seed)
    names = list(packs.PACKERS)
    for number in range(40):
        packed = packs.PACKERS[names[rng.integers(len(names))]](matrix(0, (16, 64)))
        tensors = dict(packed.tensors)
        ending = list(tensors)[rng.integers(len(tensors))]
        part = tensors[ending]
        damage = rng.integers(6)
        if damage == 0:
            del tensors[ending]
        elif damage == 1:
            tensors[ending] = part[: rng.integers(0, part.shape[0] + 1)] if part.ndim else part
        elif damage == 2:
            kinds = (np.int8, np.uint8, np.int32, np.int64, np.float16, np.float32, packs.BF16)
            with np.errstate(all="ignore"):
                tensors[ending] = part.astype(np.float64).astype(kinds[rng.integers(len(kinds))])
        elif damage == 3:
            tensors[ending] = part.reshape(-1)
        elif damage == 4 and part.size:
            octets = bytearray(np.ascontiguousarray(part).tobytes())
            octets[rng.integers(len(octets))] ^= 1 << int(rng.integers(8))
            tensors[ending] = np.frombuffer(bytes(octets), part.dtype).reshape(part.shape)
        else:
            tensors[ending] = part[None]
        directory = write(tmp_path / str(number), tensors, packed.config)
        text = ""
        try:
            read_all(directory)
        except InputError as error:
            text = str(error)
        assert "\n" not in text
        assert len(text) < 1500
