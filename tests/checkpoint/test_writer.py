"""Saving and loading: bit-exact round trips, all or nothing on disk, files that others load."""

from __future__ import annotations

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from svdjax.checkpoint import (
    LazyTensor,
    load_params,
    model_config,
    open_checkpoint,
    param_shapes,
    save_checkpoint,
    write_checkpoint,
)
from svdjax.errors import InputError
from svdjax.model import init_params
from tests.support import tiny

SINGLE = "model.safetensors"


def load(path, dtype=None):
    with open_checkpoint(path) as checkpoint:
        return load_params(checkpoint, model_config(checkpoint.config), dtype)


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same_tensors(first, second) -> None:
    one, two = tiny.read_tensors(first), tiny.read_tensors(second)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor.shape, tensor.dtype) == (two[name].shape, two[name].dtype)
        assert tensor.tobytes() == two[name].tobytes()


@pytest.mark.parametrize("style", ["v4", "v5"])
@pytest.mark.parametrize("dtype", tiny.DTYPES)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_round_trip_is_bit_exact(tmp_path, family, dtype, style):
    source = tiny.make_checkpoint(tmp_path / "in", family, dtype=dtype, style=style, shards=2)
    params = load(source)
    raw = json.loads((source / "config.json").read_text())
    for limit in (10**9, 50_000):
        out = tmp_path / f"out{limit}"
        assert save_checkpoint(out, params, raw, dtype=dtype, max_shard_bytes=limit) == out
        assert_same_tensors(source, out)
        assert (out / SINGLE).exists() == (limit == 10**9)
        written = json.loads((out / "config.json").read_text())
        assert written == raw
        assert ("dtype" in written, "torch_dtype" in written) == (style == "v5", style == "v4")
        with open_checkpoint(out) as checkpoint:
            for name in checkpoint.names:
                checkpoint.spec(name)


def test_shards_respect_the_limit_and_the_index_their_sum(tmp_path):
    source = tiny.make_checkpoint(tmp_path / "in", "qwen2")
    raw = json.loads((source / "config.json").read_text())
    out = save_checkpoint(tmp_path / "out", load(source), raw, max_shard_bytes=40_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    tensors = tiny.read_tensors(out)
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in tensors.values())
    assert set(index["weight_map"]) == set(tensors)
    files = sorted(file.name for file in out.glob("*.safetensors"))
    assert files == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    with open_checkpoint(out) as checkpoint:
        for file in files:
            specs = checkpoint.header(file).specs.values()
            assert max(spec.offsets[1] for spec in specs) <= 40_000


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_layout_is_the_decoders(tmp_path, family):
    path = tiny.make_checkpoint(tmp_path / "c", family)
    config = model_config(path)
    params = load(path, np.float32)
    expected = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    shapes = param_shapes(config, np.float32)
    for tree in (params, shapes):
        assert jax.tree.structure(tree) == jax.tree.structure(dict(expected))
        assert jax.tree.map(lambda leaf: leaf.shape, tree) == jax.tree.map(
            lambda leaf: leaf.shape, dict(expected)
        )
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
    raw = tiny.read_tensors(path)
    sparse = family in tiny.SPARSE
    mlp = params["layers"]["mlp"]
    kernel = (mlp["experts"] if sparse else mlp)["down_proj"]["kernel"][2]
    name = "mlp.experts.3.down_proj" if sparse else "mlp.down_proj"
    tensor = raw[tiny.stored_name(family, f"model.layers.2.{name}.weight")]
    assert ((kernel[3] if sparse else kernel) == tensor.T.astype(np.float32)).all()


def test_shapes_of_large_models_allocate_nothing():
    raw = tiny.tiny_config(
        "llama",
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        rope_scaling=None,
    )
    shapes = param_shapes(model_config(raw), ml_dtypes.bfloat16)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 70_553_706_496


def test_jax_arrays_are_rounded_to_nearest_even(tmp_path):
    raw = tiny.tiny_config("qwen2")
    config = model_config(raw)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), init_params(config, jax.random.key(1))
    )
    out = save_checkpoint(tmp_path / "out", params, raw)
    again = load(out)
    for before, after in zip(jax.tree.leaves(dict(params)), jax.tree.leaves(again)):
        assert after.dtype == ml_dtypes.bfloat16
        assert (np.asarray(before).astype(ml_dtypes.bfloat16) == after).all()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_transformers_loads_what_is_written(tmp_path, family):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = tiny.make_checkpoint(tmp_path / "in", family)
    raw = json.loads((source / "config.json").read_text())
    del raw["architectures"]
    out = save_checkpoint(tmp_path / "out", load(source), raw, max_shard_bytes=60_000)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.bfloat16
    # Names and experts as files have them, not as transformers' modules do.
    model.save_pretrained(tmp_path / "again")
    assert_same_tensors(source, tmp_path / "again")


# --- all or nothing ----------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    source = tiny.make_checkpoint(tmp_path / "in", "llama")
    return load(source), json.loads((source / "config.json").read_text())


def names(directory: pathlib.Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_a_failure_leaves_nothing(tmp_path, saved):
    params, raw = saved
    target = tmp_path / "new" / "out"
    broken = [LazyTensor("a", (2, 2), np.dtype(np.float32), lambda: np.ones((2, 2)))]
    broken.append(LazyTensor("b", (2, 2), np.dtype(np.float32), lambda: np.ones((2, 3))))
    text = refusal(write_checkpoint, target, broken, raw)
    assert "tensor b: has shape (2, 3), expected (2, 2)" in text
    assert names(target.parent) == set()

    def stop():
        raise KeyboardInterrupt

    broken[1] = LazyTensor("b", (2, 2), np.dtype(np.float32), stop)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(target, broken, raw)
    assert names(target.parent) == set()
    save_checkpoint(target, params, raw)
    assert names(target.parent) == {"out"}


def test_existing_directories_are_not_touched_unasked(tmp_path, saved):
    params, raw = saved
    target = tmp_path / "out"
    target.mkdir()
    save_checkpoint(target, params, raw)  # an empty one may be filled
    before = (target / SINGLE).read_bytes()
    assert f"{target}: exists and is not empty" in refusal(save_checkpoint, target, params, raw)
    params["norm"]["scale"] = params["norm"]["scale"] * 0
    assert (target / SINGLE).read_bytes() == before
    save_checkpoint(target, params, raw, overwrite=True)
    assert (target / SINGLE).read_bytes() != before
    assert names(tmp_path) == {"in", "out"}
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    text = refusal(save_checkpoint, precious, params, raw, overwrite=True)
    assert "holds no checkpoint" in text
    assert names(precious) == {"thesis.txt"}
    assert "is no directory" in refusal(save_checkpoint, precious / "thesis.txt", params, raw)
    inside = precious / "thesis.txt" / "out"
    assert str(inside) in refusal(save_checkpoint, inside, params, raw)


def test_modes_are_those_of_ordinary_directories(tmp_path, saved):
    out = save_checkpoint(tmp_path / "out", *saved)
    plain = tmp_path / "plain"
    plain.mkdir()
    assert out.stat().st_mode == plain.stat().st_mode


def test_companions_are_copied_weights_are_not(tmp_path, saved):
    source = tmp_path / "in"
    companions = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE")
    for name in (*companions, "generation_config.json", "README.md", "optimizer.pt"):
        (source / name).write_text(name)
    (source / "NOTICE").symlink_to("/etc/hostname")
    text = refusal(save_checkpoint, tmp_path / "out", *saved, copy_from=source)
    assert str(source / "NOTICE") in text
    (source / "NOTICE").unlink()
    out = save_checkpoint(tmp_path / "out", *saved, copy_from=source)
    assert names(out) == {*companions, "generation_config.json", "config.json", SINGLE}
    assert (out / "tokenizer.json").read_text() == "tokenizer.json"


# --- parameters and values ---------------------------------------------------------------------


def test_parameters_that_do_not_fit_are_all_told(tmp_path, saved):
    params, raw = saved
    del params["norm"]
    params["layers"]["mlp"]["up_proj"]["kernel"] = np.zeros((4, 3, 3), np.float32)
    params["surprise"] = {"kernel": np.zeros(3, np.float32)}
    text = refusal(save_checkpoint, tmp_path / "out", params, raw)
    assert "norm/scale is missing, expected (64,)" in text
    assert "layers/mlp/up_proj/kernel has shape (4, 3, 3), expected (4, 64, 96)" in text
    assert "surprise/kernel (3,) is not part of this model" in text
    assert names(tmp_path) == {"in"}


def test_values_that_the_dtype_cannot_hold(tmp_path, saved):
    params, raw = saved
    kernel = params["layers"]["mlp"]["up_proj"]["kernel"].astype(np.float32)
    kernel[1, 2, 3] = 1e6
    params["layers"]["mlp"]["up_proj"]["kernel"] = kernel
    text = refusal(save_checkpoint, tmp_path / "out", params, raw, dtype="float16")
    assert "tensor model.layers.1.mlp.up_proj.weight: 0 NaN and 1 Inf" in text
    assert "1e+06" in text
    assert names(tmp_path) == {"in"}
    for dtype in ("int8", "float8_e4m3fn", "nonsense"):
        text = refusal(save_checkpoint, tmp_path / "out", params, raw, dtype=dtype)
        assert "expected bfloat16, float16 or float32" in text


def test_loading_tells_all_mismatches(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "llama")
    tensors = tiny.read_tensors(path)
    del tensors["model.norm.weight"]
    tensors["lm_head.weight"] = np.zeros((3, 3), np.float32)
    tiny.write_checkpoint(path, tiny.tiny_config("llama"), tensors)
    text = refusal(load, path)
    assert f"tensor model.norm.weight is missing from {path / SINGLE}, expected shape (64,)" in text
    assert "has shape (3, 3), expected (128, 64) by config.json" in text


def test_a_second_head_must_equal_the_embedding_it_is_tied_to(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "qwen2")
    tensors = tiny.read_tensors(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tiny.write_checkpoint(path, tiny.tiny_config("qwen2"), tensors)
    assert "lm_head" not in load(path)
    tensors["lm_head.weight"][0, 0] += 1
    tiny.write_checkpoint(path, tiny.tiny_config("qwen2"), tensors)
    text = refusal(load, path)
    assert "lm_head.weight differs from model.embed_tokens.weight" in text
    assert str(path / SINGLE) in text


def test_loading_refuses_nan(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "qwen2")
    tensors = tiny.read_tensors(path)
    tensors["model.norm.weight"] = np.full(64, np.nan, np.float32)
    tiny.write_checkpoint(path, tiny.tiny_config("qwen2"), tensors)
    assert "model.norm.weight holds 64 NaN and 0 Inf" in refusal(load, path)


def test_scalars_and_empty_tensors_are_written(tmp_path):
    values = {"a": np.float32(3.5), "b": np.zeros((0, 4), np.float32), "c": np.ones(2, np.float32)}
    outgoing = [
        LazyTensor(
            name, np.shape(value), np.dtype(np.float32), lambda value=value: np.asarray(value)
        )
        for name, value in values.items()
    ]
    out = write_checkpoint(tmp_path / "out", outgoing, {"model_type": "other"})
    read = tiny.read_tensors(out)
    assert {name: each.tolist() for name, each in read.items()} == {
        "a": 3.5,
        "b": [],
        "c": [1.0, 1.0],
    }
