"""Checkpoints as people hold them: one name for a matrix, whatever wraps it and however deep."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.checkpoint.projection import places, role
from svdjax.checkpoint.rewrite import CheckpointRewrite
from tests.checkpoint.test_plan import assert_accounted
from tests.support import held, tiny
from tests.support.held import assert_same, plan_of, stacks

DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# --- prefixes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("model."),
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"language_model.{name}",
        lambda name: name.replace("model.", "model.language_model."),
        lambda name: name.replace("model.", "transformer."),
        lambda name: f"module._orig_mod.base_model.model.{name}",
        lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
        lambda name: name.replace("model.", "text_model.decoder."),
        lambda name: name.replace("layers.1.", "layers.1.module."),
        lambda name: f"_forward_module.{name}".replace(".self_attn.", ".module.self_attn.module."),
        lambda name: f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}",
    ],
)
def test_one_name_whatever_wraps_a_model(dense, tmp_path, rename):
    config, base, post, plain = dense
    other = held.write(tmp_path / "other", config, held.renamed(tiny.read_tensors(post), rename))
    plan = plan_of(base, other)
    assert plan.family == "llama"
    assert plan.coverage["analysed"] == plain.coverage["analysed"]
    assert plan.coverage["left_out"] == plain.coverage["left_out"]
    assert_same(plan, plain)
    assert any("are read under the names of a plain model" in note for note in plan.notes)
    # The decoder reads it too, and a copy has the plain names.
    loaded = load_params(open_checkpoint(other), model_config(other))
    expected = load_params(open_checkpoint(post), model_config(post))
    np.testing.assert_array_equal(loaded["lm_head"]["kernel"], expected["lm_head"]["kernel"])
    with CheckpointRewrite(
        open_checkpoint(other), tmp_path / "copy", replaced=[], identity="copy"
    ) as rewrite:
        list(rewrite.copy())
        rewrite.finish("card")
    assert (
        load_file(tmp_path / "copy" / "model.safetensors").keys() == tiny.read_tensors(post).keys()
    )


def test_two_copies_in_one_checkpoint_stay_apart(dense, tmp_path):
    config, base, post, plain = dense
    both = tiny.read_tensors(post)
    both |= held.renamed(tiny.read_tensors(base), lambda name: f"ema.{name}")
    plan = plan_of(base, held.write(tmp_path / "both", config, both))
    assert_same(plan, plain)
    assert plan.coverage["left_out"]["ema.model.norm.weight"] == "only in post"


def test_gpt2_with_and_without_its_prefix(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"attn.c_attn.weight": (8, 24), "mlp.c_fc.weight": (8, 32), "ln_1.weight": (8,)}
    tensors = {
        f"h.{layer}.{name}": rng.standard_normal(shape).astype(np.float32)
        for layer in range(3)
        for name, shape in shapes.items()
    }
    tensors["wte.weight"] = rng.standard_normal((20, 8)).astype(np.float32)
    tensors["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.uint8)
    config = {"model_type": "gpt2", "n_layer": 3}
    bare = held.write(tmp_path / "bare", config, tensors)
    saved = held.renamed(held.moved(tensors), lambda name: f"transformer.{name}")
    del saved["transformer.h.0.attn.bias"]
    wrapped = held.write(tmp_path / "wrapped", config, saved)
    plan = plan_of(bare, wrapped)
    assert [(each.name, each.layers) for each in plan.projections] == [
        ("transformer.h.*.attn.c_attn.weight", (0, 1, 2)),
        ("transformer.h.*.mlp.c_fc.weight", (0, 1, 2)),
        ("transformer.wte.weight", (0,)),
    ]
    assert plan.coverage["left_out"]["h.0.attn.bias"] == "only in base"
    assert any("that end as theirs do" in note for note in plan.notes)
    for name, (one, other) in stacks(plan).items():
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9, name
    assert_accounted(plan)


def test_templates_of_unknown_names():
    names = [f"enc.blocks.{n}.fc.weight" for n in (3, 7)]
    names += ["merger.mlp.0.weight", "merger.mlp.2.weight", "parts.0.w", "parts.1.w", "a*.h.0.w"]
    names += ["h.0.moe.experts.5.w1.weight", "h.00.w", "h.1.x.2.w"]
    found = places(names)
    assert found["enc.blocks.7.fc.weight"] == ("enc.blocks.*.fc.weight", 7, None)
    assert found["merger.mlp.2.weight"] == ("merger.mlp.2.weight", None, None)
    assert found["parts.1.w"] == ("parts.*.w", 1, None)
    assert found["a*.h.0.w"] == ("a*.h.0.w", None, None)
    assert found["h.0.moe.experts.5.w1.weight"] == ("h.*.moe.experts.*.w1.weight", 0, 5)
    assert found["h.00.w"].layer is None
    assert found["h.1.x.2.w"] == ("h.*.x.2.w", 1, None)
    assert role("model.layers.*.mlp.experts.*.up_proj.weight") == ("mlp", "experts.up_proj")
    assert role("model.layers.*.mlp.gate.weight") == ("mlp", "router")
    assert role("model.layers.*.mixer.in_proj.weight") == ("", "mixer.in_proj")


# --- other architectures -----------------------------------------------------------------------


def test_llama_against_mistral_and_a_renamed_model_type(dense, tmp_path):
    config, base, post, plain = dense
    tensors = tiny.read_tensors(post)
    mistral = held.write(tmp_path / "mistral", config | {"model_type": "mistral"}, tensors)
    plan = plan_of(base, mistral)
    assert plan.family == "mistral"
    assert "model_type is 'llama' in base and 'mistral' in post" in " | ".join(plan.notes)
    assert_same(plan, plain)
    own = held.write(tmp_path / "own", config | {"model_type": "my_llama"}, tensors)
    for one, other in ((base, own), (own, own)):
        plan = plan_of(one, other)
        assert plan.family == "unknown"
        assert [(each.module, each.name) for each in plan.projections] == [
            (each.module, each.name) for each in plain.projections
        ]
        assert plan.coverage["left_out"]["model.embed_tokens.weight"] == "embedding"


@pytest.mark.parametrize("swapped", [False, True])
def test_fused_projections_against_their_parts(dense, tmp_path, swapped):
    config, base, post, plain = dense
    phi3 = config | {"model_type": "phi3", "rope_scaling": None, "partial_rotary_factor": 1.0}
    side = base if swapped else post
    other = held.write(tmp_path / "phi3", phi3, held.fused_dense(tiny.read_tensors(side)))
    plan = plan_of(other, post) if swapped else plan_of(base, other)
    assert [each.name for each in plan.projections] == DENSE
    assert_same(plan, plain)
    assert "6 fused matrices of" in " | ".join(plan.notes)
    assert_accounted(plan)
    # Both fused: as they are, or part by part.
    assert [each.name for each in plan_of(other, other).projections][:1] == ["qkv_proj"]
    split = plan_of(other, other, split_fused=True)
    assert [each.name for each in split.projections] == DENSE


def test_a_text_model_against_the_vision_model_built_on_it(dense, tmp_path):
    config, base, post, plain = dense
    vlm = {"model_type": "llava", "text_config": config, "vision_config": {"hidden_size": 8}}
    rng = np.random.default_rng(1)
    tensors = held.renamed(tiny.read_tensors(post), lambda name: f"language_model.{name}")
    vision = {
        f"vision_tower.vision_model.encoder.layers.{n}.self_attn.{p}.weight": rng.standard_normal(
            (8, 8)
        ).astype(np.float32)
        for n in range(2)
        for p in ("q_proj", "k_proj", "v_proj", "out_proj")
    }
    other = held.write(tmp_path / "vlm", vlm, tensors | vision)
    plan = plan_of(base, other)
    assert (plan.family, plan.coverage["analysed"]) == ("llama", plain.coverage["analysed"])
    assert_same(plan, plain)
    left = plan.coverage["left_out"]
    assert {left[name] for name in vision} == {"only in post"}
    # A copy has the names of the files, and what is written goes where it belongs.
    query = "model.layers.1.self_attn.q_proj.weight"
    assert plan.post.known_as(f"language_model.{query}") == query
    with CheckpointRewrite(
        open_checkpoint(other), tmp_path / "copy", replaced=[query], identity="x"
    ) as rewrite:
        list(rewrite.copy())
        rewrite.write({query: np.ones((32, 32), np.float32)}, {query: {}})
        rewrite.finish("card")
    written = tiny.read_tensors(tmp_path / "copy")
    assert written.keys() == (tensors | vision).keys()
    np.testing.assert_array_equal(written[f"language_model.{query}"], np.ones((32, 32)))
    # Both have one, under the names of another version.
    newer = held.renamed(
        held.moved(tensors | vision),
        lambda name: (
            "lm_head.weight"
            if "lm_head" in name
            else name.replace("language_model.model", "model.language_model")
            if "language_model" in name
            else f"model.{name}"
        ),
    )
    plan = plan_of(other, held.write(tmp_path / "newer", vlm, newer))
    names = [each.name for each in plan.projections]
    assert names[:7] == DENSE
    assert names[7:] == [
        f"vision_tower.vision_model.encoder.layers.*.self_attn.{p}.weight"
        for p in ("k_proj", "out_proj", "q_proj", "v_proj")
    ]
    assert plan.projections[7].layers == (0, 1)


# --- depth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 2), (0, 1, 2, 1, 2), (2,)])
def test_layers_of_models_of_another_depth(dense, tmp_path, order):
    config, base, _, _ = dense
    tensors = held.moved(held.relayered(tiny.read_tensors(base), order))
    other = held.write(tmp_path / "other", config | {"num_hidden_layers": len(order)}, tensors)
    plan = plan_of(base, other)
    assert plan.coverage["layers"] == {str(n): source for n, source in enumerate(order)}
    originals = tiny.read_tensors(base)
    for each in plan.projections:
        assert each.layers == tuple(range(len(order)))
        for name, source in zip(each.tensors, order):
            own = f"model.layers.{source}.{name.split('.', 3)[3]}"
            np.testing.assert_array_equal(plan.base.read(name), originals[own])
            assert plan.base.part(name).tensor == own
    gone = {n for n in originals if any(f".layers.{k}." in n for k in {0, 1, 2} - set(order))}
    assert {f"base: {name}" for name in gone} <= plan.coverage["left_out"].keys()
    assert any("layers are matched by their values" in note for note in plan.notes)


def test_layers_like_none_of_the_other_model_are_left_out(dense, tmp_path):
    config, base, _, _ = dense
    tensors = held.moved(tiny.read_tensors(base))
    short = held.write(
        tmp_path / "short", config | {"num_hidden_layers": 2}, held.relayered(tensors, (0, 2))
    )
    plan = plan_of(short, base)
    assert plan.coverage["layers"] == {"0": 0, "2": 1}
    assert {each.layers for each in plan.projections} == {(0, 2)}
    reason = "layer 1 of post is like no layer of base; only in post"
    assert plan.coverage["left_out"]["model.layers.1.mlp.up_proj.weight"] == reason
    assert not any("windows" in note for note in plan.notes)
