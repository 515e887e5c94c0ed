"""Checkpoints as trainers, caches and editors leave them: read, or refused with what to do."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.checkpoint import open_checkpoint, plan_pair
from svdjax.checkpoint.plan import PairPlan
from svdjax.errors import InputError
from tests.support import held, tiny


@pytest.fixture
def dense(tmp_path: pathlib.Path) -> tuple[dict, pathlib.Path, pathlib.Path]:
    config, tensors = held.model()
    base = held.write(tmp_path / "base", config, tensors)
    return config, base, held.write(tmp_path / "post", config, held.moved(tensors))


def plan_of(base: pathlib.Path, post: pathlib.Path) -> PairPlan:
    return plan_pair(open_checkpoint(base), open_checkpoint(post))


def refusal(base: pathlib.Path, post: pathlib.Path) -> str:
    with pytest.raises(InputError) as caught:
        plan_of(base, post)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_saved_with_its_factors_is_refused(dense, tmp_path):
    config, base, post = dense
    tensors = held.renamed(
        tiny.read_tensors(post),
        lambda name: f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}",
    )
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    for side, shape in (("A", (4, 32)), ("B", (32, 4))):
        tensors[f"{layer}.lora_{side}.default.weight"] = np.ones(shape, np.float32)
    text = refusal(base, held.write(tmp_path / "whole", config, tensors))
    assert f"tensor {layer}.lora_A.default.weight is a factor of LoRA" in text
    assert "merge_and_unload" in text


def test_a_repository_of_the_cache_names_its_snapshot(dense, tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "blobs").mkdir()
    assert f"give a snapshot, {snapshot}" in refusal(dense[1], snapshot.parent.parent)


def test_weights_that_are_not_read_are_named(dense):
    _, base, post = dense
    for name in ("extra", "model-00001-of-00002"):
        save_file({"x": np.ones(1, np.float32)}, post / f"{name}.safetensors")
    assert f"{post}: extra.safetensors and 1 more are not read" in plan_of(base, post).notes


def test_a_shard_that_the_index_forgot_is_read(dense):
    _, base, post = dense
    tensors = tiny.read_tensors(post)
    (post / "model.safetensors").unlink()
    whole = plan_of(base, base).coverage["analysed"]
    files = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, file in enumerate(files):
        names = sorted(tensors)[number::3]
        save_file({name: tensors[name] for name in names}, post / file)
    index = {name: files[number % 3] for number, name in enumerate(sorted(tensors))}
    index = {name: file for name, file in index.items() if file != files[1]}
    path = post / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    plan = plan_of(base, post)
    assert plan.coverage["analysed"] == whole
    assert any(f"{path}: does not name tensor" in note for note in plan.notes)


def test_a_missing_matrix_is_told_once(dense):
    _, base, post = dense
    tensors = tiny.read_tensors(post)
    name = "model.layers.1.self_attn.q_proj.weight"
    del tensors[name]
    save_file(tensors, post / "model.safetensors")
    assert refusal(base, post).count(name) == 1


@pytest.mark.parametrize(
    "fields", [{"vocab_size": "40"}, {"vocab_size": None}, {"tie_word_embeddings": "no"}]
)
def test_fields_of_embedding_and_head_are_noted(dense, fields):
    config, base, post = dense
    (post / "config.json").write_text(json.dumps(config | fields))
    notes = " | ".join(plan_of(base, post).notes)
    assert f"the decoder cannot run {post}" in notes
    assert "differs" not in notes


def test_other_experts_are_noted(tmp_path):
    config, tensors = held.model("qwen3")
    config |= {"model_type": "qwen3_moe", "num_experts": 3, "moe_intermediate_size": 12}
    tensors = held.experts(tensors, 3, 12)
    base = held.write(tmp_path / "base", config, tensors)
    fewer = {
        name: value[:2] if name.endswith("mlp.gate.weight") else value
        for name, value in held.moved(tensors).items()
        if ".experts.2." not in name
    }
    post = held.write(tmp_path / "post", config | {"num_experts": 2}, fewer)
    plan = plan_of(base, post)
    assert any("base has experts 0..2 and post 0..1" in note for note in plan.notes)
    assert {len(each.experts) for each in plan.projections} == {0, 2}


def test_an_adapter_of_the_vision_part_alone(tmp_path):
    config, tensors = held.model()
    tensors = held.renamed(tensors, lambda name: name.replace("model.", "model.language_model."))
    names = [f"model.visual.blocks.{number}.attn.qkv" for number in range(2)]
    rng = np.random.default_rng(0)
    vision = {f"{name}.weight": rng.standard_normal((24, 8)).astype(np.float32) for name in names}
    base = held.write(tmp_path / "base", config, tensors | vision)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["qkv"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    factors = {}
    for name in names:
        for side, shape in (("A", (2, 8)), ("B", (24, 2))):
            value = rng.standard_normal(shape).astype(np.float32)
            factors[f"base_model.model.{name}.lora_{side}.weight"] = value
    save_file(factors, adapter / "adapter_model.safetensors")
    merged = open_checkpoint(adapter, lambda: open_checkpoint(base))
    a, b = (factors[f"base_model.model.{names[1]}.lora_{side}.weight"] for side in "AB")
    expected = vision[f"{names[1]}.weight"] + 2 * b @ a
    found = merged.read("visual.blocks.1.attn.qkv.weight")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
