"""Experts: an axis of their projections, fused or single, in either orientation."""

from __future__ import annotations

import numpy as np
import pytest

from svdjax.checkpoint import open_checkpoint, read_stack
from svdjax.checkpoint.rewrite import CheckpointRewrite
from tests.checkpoint.test_plan import assert_accounted, refusal
from tests.support import held, tiny
from tests.support.held import assert_same, plan_of


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
