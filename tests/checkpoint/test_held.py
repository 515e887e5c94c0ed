"""Checkpoints as people hold them: one name for a matrix, and strict only where it counts."""

from __future__ import annotations

import json
import pathlib
import shutil
import time
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from svdjax.checkpoint import (
    PairPlan,
    load_params,
    model_config,
    open_checkpoint,
    plan_pair,
    read_stack,
)
from svdjax.checkpoint.files import LINKS, follow_links
from svdjax.checkpoint.projection import places, role
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.errors import InputError
from tests.checkpoint.test_plan import assert_accounted, refusal
from tests.support import held, tiny

DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
INDEX = "model.safetensors.index.json"


def plan_of(base: pathlib.Path, post: pathlib.Path, **options: Any) -> PairPlan:
    plan = plan_pair(open_checkpoint(base), open_checkpoint(post), **options)
    assert {name for each in plan.projections for name in each.tensors} == set(
        plan.coverage["analysed"]
    )
    assert json.loads(json.dumps(plan.coverage)) == plan.coverage
    return plan


def stacks(plan: PairPlan) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Matrices of both sides by projection, [L or L E, in, out]."""
    return {
        each.name: (
            read_stack(plan.base, each, 0, len(each.tensors)),
            read_stack(plan.post, each, 0, len(each.tensors)),
        )
        for each in plan.projections
    }


def assert_same(plan: PairPlan, plain: PairPlan) -> None:
    """Both plans compare the same values under the same names."""
    first, second = stacks(plan), stacks(plain)
    assert list(first) == list(second)
    for name, sides in first.items():
        for one, other in zip(sides, second[name]):
            assert one.tobytes() == other.tobytes()


@pytest.fixture
def dense(tmp_path):
    config, tensors = held.model()
    base = held.write(tmp_path / "base", config, tensors)
    post = held.write(tmp_path / "post", config, held.moved(tensors))
    return config, base, post, plan_of(base, post)


@pytest.fixture
def mixture(tmp_path):
    config, tensors = held.model("qwen3")
    config |= {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 12}
    tensors = held.experts(tensors, 4, 12)
    base = held.write(tmp_path / "base", config, tensors)
    post = held.write(tmp_path / "post", config, held.moved(tensors))
    return config, base, post, plan_of(base, post)


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


# --- experts -----------------------------------------------------------------------------------


def test_experts_are_an_axis_of_their_projections(mixture):
    _, _, post, plan = mixture
    shapes = {each.name: (each.shape, each.layers, each.experts) for each in plan.projections}
    assert list(shapes)[4:] == [
        "router",
        "experts.gate_proj",
        "experts.up_proj",
        "experts.down_proj",
    ]
    assert shapes["experts.down_proj"] == ((12, 32), (0, 1, 2), (0, 1, 2, 3))
    assert shapes["router"] == ((32, 4), (0, 1, 2), ())
    each = next(each for each in plan.projections if each.name == "experts.up_proj")
    tensors = tiny.read_tensors(post)
    stack = read_stack(plan.post, each, 5, 7)
    for matrix, (layer, expert) in zip(stack, ((1, 1), (1, 2))):
        name = f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"
        np.testing.assert_array_equal(matrix, tensors[name].T)
    assert each.matrices_of({1}) == [4, 5, 6, 7]
    assert each.of_layers([2]).tensors == each.tensors[8:]
    assert_accounted(plan)


@pytest.mark.parametrize("layout", ["out", "in", "gpt_oss"])
def test_fused_experts_against_single_ones(mixture, tmp_path, layout):
    config, base, post, plain = mixture
    kind = {"out": "qwen3_moe", "in": "llama4_text", "gpt_oss": "gpt_oss"}[layout]
    tensors = held.fused(tiny.read_tensors(post), layout)
    other = held.write(tmp_path / "fused", config | {"model_type": kind}, tensors)
    plan = plan_of(base, other)
    assert_same(plan, plain)
    way = "[experts, out, in]" if layout == "out" else "[experts, in, out]"
    turns = "gate and up in turns" if layout == "gpt_oss" else "gate before up"
    assert any(f"fused experts of 3 layers are read as {way}, {turns}" in n for n in plan.notes)
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    expected = tiny.read_tensors(post)[name]
    np.testing.assert_array_equal(plan.post.read(name, (3, 9)), expected[3:9])
    assert plan.post.spec(name).shape == expected.shape
    assert not plan.post.stored(name)


@pytest.mark.parametrize("layout", ["out", "in", "gpt_oss"])
def test_single_experts_are_written_where_they_lie(mixture, tmp_path, layout):
    config, _, post, _ = mixture
    kind = {"out": "qwen3_moe", "in": "llama4_text", "gpt_oss": "gpt_oss"}[layout]
    tensors = held.fused(tiny.read_tensors(post), layout)
    source = held.write(tmp_path / "fused", config | {"model_type": kind}, tensors)
    new = {
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight": value
        for layer, expert, part in ((0, 3, "gate"), (0, 3, "up"), (2, 0, "down"))
        for value in [np.full((32, 12) if part == "down" else (12, 32), expert + 1, np.float32)]
    }
    with CheckpointRewrite(
        open_checkpoint(source), tmp_path / "out", replaced=list(new), identity=layout
    ) as rewrite:
        list(rewrite.copy())
        for name, value in new.items():
            rewrite.write({name: value}, {name: {}})
        rewrite.finish("card")
    single = tiny.read_tensors(post) | new
    expected = held.fused(single, layout)
    written = tiny.read_tensors(tmp_path / "out")
    assert written.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)


def test_mixtral_names_and_a_square_ambiguous_shape(mixture, tmp_path):
    config, base, post, plain = mixture
    tensors = held.mixtral(tiny.read_tensors(post))
    other = held.write(tmp_path / "mixtral", config | {"model_type": "mixtral"}, tensors)
    assert_same(plan_of(base, other), plain)
    # 2 I = D: gate_up_proj alone says nothing, together with down_proj it does.
    _, dense = held.model("qwen3")
    square = held.experts(dense, 3, 16)
    sides = [
        held.write(tmp_path / layout, config, held.fused(square, layout))
        for layout in ("out", "in")
    ]
    plan = plan_of(held.write(tmp_path / "square", config, square), sides[1])
    assert_same(plan_of(*sides), plan)


def test_experts_whose_orientation_is_not_known_stay_as_they_are(mixture, tmp_path):
    config, base, post, _ = mixture
    tensors = held.fused(tiny.read_tensors(post), "out")
    for layer in range(3):
        del tensors[f"model.layers.{layer}.mlp.experts.down_proj"]
    config = config | {"model_type": "novel_moe"}  # no table says that down_proj is missing
    sides = [
        held.write(tmp_path / name, config | {"hidden_size": width}, tensors)
        for name, width in (("known", 32), ("unknown", 7))
    ]
    assert "experts.up_proj" in [each.name for each in plan_of(base, sides[0]).projections]
    plan = plan_of(base, sides[1])
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert plan.coverage["left_out"][name] == "only in post"
    assert any("their orientation is not known" in note for note in plan.notes)


def test_experts_that_were_pruned_and_those_that_are_missing(mixture, tmp_path):
    config, base, post, _ = mixture
    pruned = {n: v for n, v in tiny.read_tensors(post).items() if ".experts.3." not in n}
    plan = plan_of(base, held.write(tmp_path / "pruned", config, pruned))
    assert plan.projections[5].experts == (0, 1, 2)
    assert (
        plan.coverage["left_out"]["model.layers.0.mlp.experts.3.up_proj.weight"] == "only in base"
    )
    cut = tiny.read_tensors(post)
    del cut["model.layers.2.mlp.experts.3.up_proj.weight"]
    text = refusal(base, held.write(tmp_path / "cut", config, cut))
    assert "tensor model.layers.2.mlp.experts.3.up_proj.weight is missing" in text


def test_deepseek_s_names(tmp_path):
    """Dense layers first, then shared and routed experts, low-rank projections, biases of both."""
    rng = np.random.default_rng(0)
    shapes = {
        "self_attn.q_a_proj.weight": (6, 16),
        "self_attn.q_b_proj.weight": (24, 6),
        "self_attn.kv_a_proj_with_mqa.weight": (10, 16),
        "self_attn.kv_b_proj.weight": (32, 8),
        "self_attn.o_proj.weight": (16, 16),
    }
    ff = {"gate_proj": (12, 16), "up_proj": (12, 16), "down_proj": (16, 12)}
    tensors = {}
    for layer in range(3):
        own = dict(shapes)
        if layer == 0:
            own |= {f"mlp.{name}.weight": shape for name, shape in ff.items()}
        else:
            own |= {"mlp.gate.weight": (4, 16), "mlp.gate.e_score_correction_bias": (4,)}
            own["mlp.experts.gate_up_proj_bias"] = (4, 24)
            for part in (*(f"experts.{e}" for e in range(4)), "shared_experts"):
                own |= {f"mlp.{part}.{name}.weight": shape for name, shape in ff.items()}
        tensors |= {
            f"model.layers.{layer}.{name}": rng.standard_normal(shape).astype(np.float32)
            for name, shape in own.items()
        }
    config = {"model_type": "deepseek_v3", "num_hidden_layers": 3}
    base = held.write(tmp_path / "base", config, tensors)
    plan = plan_of(base, held.write(tmp_path / "post", config, held.moved(tensors)))
    found = {each.name: (each.layers, len(each.experts)) for each in plan.projections}
    assert found == {
        **dict.fromkeys(
            ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"), ((0, 1, 2), 0)
        ),
        "o_proj": ((0, 1, 2), 0),
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), ((0,), 0)),
        "router": ((1, 2), 0),
        **dict.fromkeys(("experts.gate_proj", "experts.up_proj", "experts.down_proj"), ((1, 2), 4)),
        **dict.fromkeys(
            [f"shared_experts.{name}" for name in ("down_proj", "gate_proj", "up_proj")],
            ((1, 2), 0),
        ),
    }
    assert list(found)[:4] == ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]
    left = plan.coverage["left_out"]
    assert left["model.layers.1.mlp.experts.gate_up_proj_bias"] == "bias: no matrix"


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


# --- what matters, and what does not -----------------------------------------------------------


def test_layers_beyond_the_stated_ones_are_none_of_them(dense, tmp_path):
    config, base, post, plain = dense
    tensors = tiny.read_tensors(post)
    tensors |= {
        name.replace(".layers.0.", ".layers.3."): value
        for name, value in tensors.items()
        if ".layers.0." in name
    }
    plan = plan_of(base, held.write(tmp_path / "more", config, tensors))
    assert "layers" not in plan.coverage
    assert_same(plan, plain)
    name = "model.layers.3.mlp.up_proj.weight"
    assert plan.coverage["left_out"][name] == "only in post"


def test_names_of_any_length_and_number_take_time_in_proportion(tmp_path):
    names = ["." * 200_000, "a." * 100_000 + "0.w", "layers.0." * 20_000 + "w", "x*.layers.0.w"]
    names += [f"{'p.' * 30}layers.{n}.self_attn.q_proj.weight" for n in range(2000)]
    value = np.ones((2, 2), np.float32)
    config = {"model_type": "odd"}
    base = held.write(tmp_path / "base", config, dict.fromkeys(names, value))
    other = held.write(tmp_path / "post", config, {f"q.{name}": value for name in names})
    began = time.process_time()
    plan = plan_of(base, other)
    assert time.process_time() - began < 5
    assert plan.projections[0].layers == tuple(range(2000))


def test_heads_of_other_uses_are_left_out(dense, tmp_path):
    config, base, post, plain = dense
    tensors = tiny.read_tensors(post)
    del tensors["lm_head.weight"]
    tensors |= {"score.weight": np.ones((2, 32), np.float32)}
    tensors |= {"v_head.summary.weight": np.ones((1, 32), np.float32)}
    tensors |= {"v_head.summary.bias": np.ones(1, np.float32)}
    other = held.write(tmp_path / "reward", config, tensors)
    plan = plan_of(base, other)
    assert_same(plan, plain)
    left = plan.coverage["left_out"]
    assert left["score.weight"] == "head of another use; only in post"
    assert left["lm_head.weight"] == "output head; only in base"
    # The decoder wants its head.
    with pytest.raises(InputError, match=r"lm_head\.weight is missing"):
        load_params(open_checkpoint(other), model_config(other))


@pytest.mark.parametrize("kind", ["llama", "novel"])
def test_a_checkpoint_that_was_cut_off_is_refused(dense, tmp_path, kind):
    config, base, post, _ = dense
    cut = {n: v for n, v in tiny.read_tensors(post).items() if ".layers.2." not in n}
    sides = [
        held.write(tmp_path / name, config | {"model_type": kind}, tensors)
        for name, tensors in (("whole", tiny.read_tensors(base)), ("cut", cut))
    ]
    text = refusal(*sides)
    assert "missing from" in text
    assert "layers.2." in text or "layers 2 are missing" in text
    cut = tiny.read_tensors(post)
    del cut["model.layers.1.self_attn.o_proj.weight"]
    held.write(tmp_path / "cut", config | {"model_type": kind}, cut)
    assert "model.layers.1.self_attn.o_proj.weight is missing" in refusal(*sides)


def test_shards_without_an_index_or_under_another_count(dense, tmp_path):
    config, base, post, plain = dense
    sharded = held.write(tmp_path / "sharded", config, tiny.read_tensors(post), shards=3)
    index = (sharded / INDEX).read_text()
    (sharded / INDEX).write_text(index.replace("of-00003", "of-00007"))
    plan = plan_of(base, sharded)
    assert "names files that are not there" in plan.notes[0]
    assert_same(plan, plain)
    (sharded / INDEX).unlink()
    plan = plan_of(base, sharded)
    assert "the 3 shards are read without" in plan.notes[0]
    assert_same(plan, plain)
    with CheckpointRewrite(
        open_checkpoint(sharded), tmp_path / "copy", replaced=[], identity="x"
    ) as rewrite:
        list(rewrite.copy())
        rewrite.finish("card")
    assert (tmp_path / "copy" / INDEX).exists()
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "2 of 3 shards" in refusal(base, sharded)


def test_strays_and_variants(dense, tmp_path):
    config, base, post, plain = dense
    sharded = held.write(tmp_path / "sharded", config, tiny.read_tensors(post), shards=2)
    single = sharded / "model.safetensors"
    for stray, words in (
        ({n: (v * 9).astype(np.int8) for n, v in tiny.read_tensors(post).items()}, "is int8"),
        ({"lora": np.ones(3, np.float32)}, "it has no tensor"),
    ):
        save_file(stray, single)
        plan = plan_of(base, sharded)
        assert f"model.safetensors is not read, the shards of {INDEX} are" in plan.notes[0]
        assert words in plan.notes[0]
        assert_same(plan, plain)
    single.write_bytes(b"cut off")
    assert_same(plan_of(base, sharded), plain)
    single.unlink()
    save_file({"x": np.ones(3, np.float32)}, sharded / "consolidated.safetensors")
    assert "consolidated.safetensors is not read" in plan_of(base, sharded).notes[0]
    post = shutil.copytree(post, tmp_path / "variant")
    (post / "model.safetensors").rename(post / "model.fp16.safetensors")
    plan = plan_of(base, post)
    assert "the variant 'fp16' is read" in plan.notes[0]
    assert_same(plan, plain)
    save_file({"x": np.ones(3, np.float32)}, post / "model.bf16.safetensors")
    assert "several variants (bf16, fp16)" in refusal(base, post)
    for name in ("model.bf16", "model.fp16"):
        (post / f"{name}.safetensors").unlink()
    (post / "config.json").unlink()
    save_file({"x": np.ones(3, np.float32)}, post / "consolidated.safetensors")
    assert "in Mistral's own layout" in refusal(base, post)


def test_configs_from_windows(dense, tmp_path):
    config, base, post, plain = dense
    text = json.dumps(config).encode()
    post = shutil.copytree(post, tmp_path / "windows")
    (post / "config.json").write_bytes(b"\xef\xbb\xbf" + text.replace(b", ", b",\r\n"))
    assert_same(plan_of(base, post), plain)
    (post / "config.json").write_bytes(json.dumps(config).encode("utf-16"))
    assert "it is UTF-16, expected UTF-8" in refusal(base, post)


@pytest.mark.parametrize("whole", [True, False])
def test_factors_that_are_whole_numbers(tmp_path, whole):
    number = int if whole else float
    config, tensors = held.model(
        "granite", embedding_multiplier=number(12), logits_scaling=number(8)
    )
    base = held.write(tmp_path / "base", config, tensors)
    plan = plan_of(base, held.write(tmp_path / "post", config, held.moved(tensors)))
    assert (plan.family, plan.notes) == ("granite", ())
    assert model_config(base).logit_scale == 1 / 8


def test_what_trainers_leave(dense, tmp_path):
    _, base, post, plain = dense
    run = shutil.copytree(post, tmp_path / "run")
    step = shutil.copytree(post, run / "checkpoint-10")
    (step / "optimizer.pt").write_bytes(b"x")
    for side in (run, step):
        assert_same(plan_of(base, side), plain)
    (step / "model.safetensors").unlink()
    assert "stopped while it saved" in refusal(base, step)
    (step / "global_step10").mkdir()
    assert "DeepSpeed's parts have to be gathered" in refusal(base, step)
    (run / "model.safetensors").unlink()
    assert "give one of the steps" in refusal(base, run)


def test_odd_tensors_of_an_unknown_architecture(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {
        "backbone.layers.0.mixer.conv1d.weight": (8, 1, 4),
        "backbone.layers.0.mixer.A_log": (6, 3),
        "backbone.layers.0.mixer.dt": (),
        "empty.weight": (0, 8),
        "row.weight": (1, 9),
    }
    tensors = {k: np.array(rng.standard_normal(s), np.float32) for k, s in shapes.items()}
    tensors["table.weight"] = np.arange(9).reshape(3, 3)
    base = held.write(tmp_path / "base", {"model_type": "odd"}, tensors)
    plan = plan_of(base, base)
    assert [each.name for each in plan.projections] == [
        "backbone.layers.0.mixer.A_log",
        "row.weight",
    ]
    assert plan.coverage["left_out"] == {
        "backbone.layers.0.mixer.conv1d.weight": "not a matrix: shape (8, 1, 4)",
        "backbone.layers.0.mixer.dt": "not a matrix: shape ()",
        "empty.weight": "empty",
        "table.weight": "not floating point: int64 in base, int64 in post",
    }


# --- links -------------------------------------------------------------------------------------


def test_links_into_a_store_that_is_named(dense, tmp_path, monkeypatch):
    monkeypatch.setenv(LINKS, "")
    _, base, post, plain = dense
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in post.iterdir():
        (mine / file.name).symlink_to(file.resolve())
    text = refusal(base, mine)
    assert f"--follow_links={post.resolve()}" in text
    follow_links([base])
    assert "outside its directory" in refusal(base, mine)
    follow_links([post, base])
    assert_same(plan_of(base, mine), plain)
    with pytest.raises(InputError, match=r"--follow_links: .*nowhere: expected directories"):
        follow_links([tmp_path / "nowhere"])
    (mine / "model.safetensors").unlink()
    (mine / "model.safetensors").symlink_to(post / "gone")
    assert "which is not there; fetch it again" in refusal(base, mine)
