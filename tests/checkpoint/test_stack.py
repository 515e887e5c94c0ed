"""Stacks as the kernels get them, values that are refused, fingerprints of files."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.checkpoint import digest, input_digest, open_checkpoint, plan_pair, read_stack
from svdjax.checkpoint.formats import count_nonfinite
from svdjax.errors import InputError
from tests.support import tiny

SINGLE = "model.safetensors"


def projections(path, **options):
    checkpoint = open_checkpoint(path)
    return checkpoint, {
        each.name: each for each in plan_pair(checkpoint, checkpoint, **options).projections
    }


@pytest.mark.parametrize("dtype", tiny.DTYPES)
@pytest.mark.parametrize("family", tiny.LAYOUTS)
def test_stack_is_layers_in_out(tmp_path, family, dtype):
    path = tiny.make_checkpoint(tmp_path / "c", family, dtype=dtype, shards=2)
    expected = tiny.random_tensors(tiny.tiny_config(family), dtype=dtype)
    checkpoint, found = projections(path)
    for each in found.values():
        stack = read_stack(checkpoint, each, 1, 3)
        assert stack.shape == (2, *each.shape)
        assert stack.dtype == tiny.DTYPES[dtype]
        for layer in (1, 2):
            matrix = expected[f"model.layers.{layer}.{each.module}.{each.name}.weight"]
            assert stack[layer - 1].tobytes() == matrix.T.tobytes()


@pytest.mark.parametrize("family", tiny.LAYOUTS)
def test_wide_stacks_lie_along_their_long_side_and_are_filled_up(tmp_path, family):
    path = tiny.make_checkpoint(tmp_path / "c", family)
    checkpoint, found = projections(path)
    turned = set()
    for each in found.values():
        usual = read_stack(checkpoint, each, 1, 3)
        wide = read_stack(checkpoint, each, 1, 3, length=4, wide=True)
        assert wide.shape == (4, min(each.shape), max(each.shape))
        assert wide.flags.c_contiguous
        assert wide.ctypes.data % 64 == 0, "jax would copy it"
        expected = usual.transpose(0, 2, 1) if each.turned else usual
        for layer, of in enumerate((0, 1, 1, 1)):
            assert wide[layer].tobytes() == expected[of].tobytes()
        turned.add(each.turned)
    assert turned == {True, False}


def test_long_matrices_are_transposed_in_strips(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "llama", intermediate_size=600)
    checkpoint, found = projections(path)
    for name in ("up_proj", "down_proj"):
        usual, wide = (read_stack(checkpoint, found[name], 0, 2, wide=w) for w in (False, True))
        expected = usual.transpose(0, 2, 1) if found[name].turned else usual
        assert wide.tobytes() == expected.tobytes()


def test_parts_of_fused_tensors(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "phi3")
    checkpoint, parts = projections(path, split_fused=True)
    whole = projections(path)[1]
    for fused, names in (
        ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
        ("gate_up_proj", ("gate_proj", "up_proj")),
    ):
        joined = np.concatenate([read_stack(checkpoint, parts[n], 0, 4) for n in names], axis=2)
        assert joined.tobytes() == read_stack(checkpoint, whole[fused], 0, 4).tobytes()


@pytest.mark.parametrize("dtype", tiny.DTYPES)
def test_nan_and_inf_are_refused_with_file_tensor_and_count(tmp_path, dtype):
    path = tiny.make_checkpoint(tmp_path / "c", "llama", dtype=dtype)
    tensors = tiny.read_tensors(path)
    name = "model.layers.2.mlp.down_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 5] = np.nan
    tensors[name][4, :2] = (np.inf, -np.inf)
    save_file(tensors, path / SINGLE)
    checkpoint, found = projections(path)
    read_stack(checkpoint, found["down_proj"], 0, 2)
    with pytest.raises(InputError) as caught:
        read_stack(checkpoint, found["down_proj"], 0, 4)
    assert str(caught.value) == (
        f"{path / SINGLE}: tensor {name} holds 1 NaN and 2 Inf among 6144 values; "
        "expected finite numbers"
    )


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_nonfinite_values_are_told_from_all_others(dtype):
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    if bits.itemsize == 2:
        values = np.arange(1 << 16, dtype=bits).view(dtype)  # every value there is
    else:
        draw = np.random.default_rng(0)
        values = draw.integers(0, np.iinfo(bits).max, 10_000, dtype=bits, endpoint=True)
        values = np.concatenate(
            [
                values.view(dtype),
                np.array([np.nan, np.inf, -np.inf, np.finfo(dtype).max, 0, -0.0], dtype),
            ]
        )
    with np.errstate(invalid="ignore"):  # signalling NaNs among them
        wide = values.astype(np.float64)
    assert count_nonfinite(values) == (np.isnan(wide).sum(), np.isinf(wide).sum())
    assert count_nonfinite(values[wide == wide].reshape(1, -1))[0] == 0


def test_layers_of_several_dtypes_lose_nothing(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "llama")
    tensors = tiny.read_tensors(path)
    name = "model.layers.1.mlp.up_proj.weight"
    for dtype, expected in ((np.float16, np.float32), (np.float32, np.float32)):
        tensors[name] = tensors[name].astype(np.float32).astype(dtype)
        save_file(tensors, path / SINGLE)
        checkpoint, found = projections(path)
        stack = read_stack(checkpoint, found["up_proj"], 0, 4)
        assert stack.dtype == expected
        assert (stack[1] == tensors[name].T.astype(expected)).all()
        assert read_stack(checkpoint, found["up_proj"], 0, 1).dtype == ml_dtypes.bfloat16


def test_file_that_changed_since_it_was_planned(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "llama")
    checkpoint, found = projections(path)
    tiny.make_checkpoint(path, "llama", intermediate_size=80)
    checkpoint.close()
    with pytest.raises(InputError, match="was changed or replaced after it was first read"):
        read_stack(checkpoint, found["up_proj"], 0, 1)


# --- fingerprints ------------------------------------------------------------------------------


def test_digest_names_every_file(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "qwen2", shards=2)
    with open_checkpoint(path) as checkpoint:
        short, full = input_digest(checkpoint), input_digest(checkpoint, full=True)
    assert json.loads(json.dumps(short)) == short
    assert set(short) == {file.name for file in path.iterdir()}
    for name, each in short.items():
        assert each["size"] == (path / name).stat().st_size
        assert {**each, "sha256": full[name]["sha256"]} == full[name]
    assert short == input_digest(open_checkpoint(str(path)))


@pytest.mark.parametrize("whole", [True, False])
def test_digest_notices_other_weights(tmp_path, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(digest, "WHOLE", 0)
        monkeypatch.setattr(digest, "BLOCK", 64)
    path = tiny.make_checkpoint(tmp_path / "c", "qwen2")
    before = input_digest(open_checkpoint(path))
    other = tiny.perturb(path, tmp_path / "d", only=["layers.3.mlp.down_proj"])
    after = input_digest(open_checkpoint(other))
    assert before["config.json"] == after["config.json"]
    assert before[SINGLE]["header_sha256"] == after[SINGLE]["header_sha256"]
    assert before[SINGLE]["sampled_sha256"] != after[SINGLE]["sampled_sha256"]


def test_full_digest_notices_any_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "WHOLE", 0)
    monkeypatch.setattr(digest, "BLOCK", 64)
    path = tiny.make_checkpoint(tmp_path / "c", "qwen2")
    before = input_digest(open_checkpoint(path), full=True)
    shard = open_checkpoint(path).header(SINGLE)
    spec = shard.specs["model.layers.0.mlp.up_proj.weight"]
    content = bytearray((path / SINGLE).read_bytes())
    content[8 + len(shard.header) + spec.offsets[0] + 200] ^= 1
    (path / SINGLE).write_bytes(content)
    after = input_digest(open_checkpoint(path), full=True)
    assert before[SINGLE]["sampled_sha256"] == after[SINGLE]["sampled_sha256"]
    assert before[SINGLE]["sha256"] != after[SINGLE]["sha256"]
