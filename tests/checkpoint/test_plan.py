"""Pairing: every tensor accounted for, every mismatch told at once, no data touched."""

from __future__ import annotations

import json
import pathlib
import struct
import time
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.checkpoint import (
    FAMILIES,
    PairPlan,
    model_config,
    open_checkpoint,
    plan_pair,
    read_stack,
)
from svdjax.checkpoint.matching import Fault, grouped, ranges
from svdjax.errors import InputError
from tests.support import tiny

ORDER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def plan_of(base, post, **options) -> PairPlan:
    return plan_pair(open_checkpoint(base), open_checkpoint(post), **options)


def refusal(base, post) -> str:
    with pytest.raises(InputError) as caught:
        plan_of(base, post)
    text = str(caught.value)
    assert "\n" not in text
    return text


def edit(directory: pathlib.Path, change) -> None:
    """Change the tensors of a single-file checkpoint."""
    tensors = tiny.read_tensors(directory)
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def edit_config(directory: pathlib.Path, **fields) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def assert_accounted(plan: PairPlan) -> None:
    """Every tensor of both sides stands in exactly one list, and all of it is JSON."""
    analysed, left_out = plan.coverage["analysed"], plan.coverage["left_out"]
    assert sorted([*analysed, *left_out]) == sorted({*plan.base.names, *plan.post.names})
    assert {name for each in plan.projections for name in each.tensors} == set(analysed)
    assert all(isinstance(reason, str) and reason for reason in left_out.values())
    assert json.loads(json.dumps(plan.coverage)) == plan.coverage
    assert tuple(plan.coverage["notes"]) == plan.notes


@pytest.fixture
def pair(tmp_path):
    base = tiny.make_checkpoint(tmp_path / "base", "qwen2")
    return base, tiny.perturb(base, tmp_path / "post")


@pytest.mark.parametrize("style", ["v4", "v5"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family(tmp_path, family, style):
    base = tiny.make_checkpoint(tmp_path / "base", family, style=style, shards=2)
    post = tiny.perturb(base, tmp_path / "post")
    plan = plan_of(base, post)
    assert plan.family == family
    assert [each.name for each in plan.projections] == (FUSED if family == "phi3" else ORDER)
    assert plan.notes == ()
    assert_accounted(plan)
    shapes = tiny.tensor_shapes(tiny.tiny_config(family))
    for each in plan.projections:
        assert each.module == ("mlp" if each.name[0] in "gud" else "self_attn")
        assert (each.transposed, each.rows) == (True, None)
        for layer, name in enumerate(each.tensors):
            assert name == f"model.layers.{layer}.{each.module}.{each.name}.weight"
            assert shapes[name] == each.shape[::-1]
    assert not [name for name in plan.coverage["left_out"] if "proj.weight" in name]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_name_tables_agree_with_names_written_down_elsewhere(family):
    for tied in (True, False):
        for bias in (True, False):
            raw = tiny.tiny_config(family, tie_word_embeddings=tied)
            if family == "llama":
                raw |= {"attention_bias": bias, "mlp_bias": bias}
            config = model_config(raw)
            found = {
                name: weight.stored_shape(config)
                for weight in FAMILIES[family].present(config)
                for name in weight.tensors(config)
            }
            assert found == tiny.tensor_shapes(raw)


def test_fused_projections_split_into_rows(tmp_path):
    base = tiny.make_checkpoint(tmp_path / "base", "phi3")
    plan = plan_of(base, base, split_fused=True)
    assert [each.name for each in plan.projections] == ORDER
    rows = {each.name: each.rows for each in plan.projections}
    assert rows == {
        "q_proj": (0, 64),
        "k_proj": (64, 96),
        "v_proj": (96, 128),
        "o_proj": None,
        "gate_proj": (0, 96),
        "up_proj": (96, 192),
        "down_proj": None,
    }
    assert_accounted(plan)


# --- what may differ ---------------------------------------------------------------------------


def test_vocabulary_head_and_dtype_may_differ(tmp_path):
    base = tiny.make_checkpoint(tmp_path / "base", "qwen2")
    post = tiny.make_checkpoint(
        tmp_path / "post",
        "qwen2",
        vocab_size=144,
        tie_word_embeddings=False,
        dtype="float32",
        style="v5",
    )
    plan = plan_of(base, post)
    notes = " | ".join(plan.notes)
    assert "vocabulary differs: 128 in base, 144 in post" in notes
    assert "tied to the embedding in base only" in notes
    assert "bfloat16 in base, float32 in post" in notes
    assert plan.coverage["left_out"]["lm_head.weight"] == "output head; only in post"
    assert_accounted(plan)


def test_buffers_and_tied_heads_are_left_out_with_the_reason(pair):
    base, post = pair
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(base, lambda tensors: tensors.update({buffer: np.zeros(8, np.float32)}))
    edit(
        post,
        lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}),
    )
    plan = plan_of(base, post)
    assert "rotary" in plan.coverage["left_out"][buffer]
    assert "only in base" in plan.coverage["left_out"][buffer]
    assert "tied" in plan.coverage["left_out"]["lm_head.weight"]
    assert_accounted(plan)


def test_what_only_the_decoder_needs_is_noted(pair):
    base, post = pair
    edit_config(post, rope_scaling={"rope_type": "yarn", "factor": 4.0}, hidden_act="relu")
    notes = " | ".join(plan_of(base, post).notes)
    assert "the decoder cannot run" in notes
    assert str(post) in notes


# --- what may not ------------------------------------------------------------------------------


def test_no_matrix_in_common_shows_what_is_there_on_both_sides(tmp_path, pair):
    other = tiny.make_checkpoint(tmp_path / "other", "llama", hidden_size=32, head_dim=16)
    text = refusal(pair[0], other)
    for part in (str(pair[0]), str(other), "'qwen2'", "'llama'", "no matrix of the same name"):
        assert part in text
    assert text.count("down_proj.weight (") == 2
    assert "is missing" not in text


def test_all_mismatches_of_a_pair_at_once(pair):
    base, post = pair
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)]

    def spoil_base(tensors):
        for name in names:
            del tensors[name]
        tensors["model.surprise.weight"] = np.zeros((2, 3), np.float32)

    def spoil_post(tensors):
        tensors["model.layers.2.self_attn.q_proj.weight"] = np.zeros((64, 60), np.float32)
        tensors["model.norm.weight"] = np.zeros(64, np.int64)
        tensors["model.layers.1.mlp.down_proj.weight"] = np.zeros((64, 96), np.int64)

    edit(base, spoil_base)
    edit(post, spoil_post)
    text = refusal(base, post)
    assert (
        "base: tensor model.layers.{0..3}.mlp.up_proj.weight is missing from "
        f"{base / 'model.safetensors'}, expected shape (96, 64)" in text
    )
    assert "surprise" not in text
    assert (
        "post: tensor model.layers.2.self_attn.q_proj.weight in "
        f"{post / 'model.safetensors'} has shape (64, 60), expected (64, 64)" in text
    )
    assert "post: tensor model.layers.1.mlp.down_proj.weight" in text
    assert "is int64, expected bf16, f16 or f32" in text


def test_many_mismatches_stay_readable(pair):
    base, post = pair

    def widen(tensors):
        for number, name in enumerate(name for name in list(tensors) if ".3." in name):
            tensors[name] = np.zeros((number + 2, 3), np.float32)

    edit(post, widen)
    text = refusal(base, post)
    assert "and 5 more" not in text
    assert text.count("has shape") == 7
    assert len(text) < 3000


def test_names_that_end_alike_are_compared_with_a_note(pair):
    def rename(tensors):
        for name in list(tensors):
            if name.startswith("model.layers"):
                tensors[name.replace("self_attn", "attn").replace("mlp", "ff")] = tensors.pop(name)

    edit(pair[1], rename)
    plan = plan_of(*pair)
    assert len(plan.projections) == 7
    assert plan.projections[0].layers == (0, 1, 2, 3)
    told = "model.layers.0.self_attn.k_proj.bias as model.layers.0.attn.k_proj.bias"
    assert any(told in note for note in plan.notes)
    assert_accounted(plan)


def test_a_stray_single_file_says_that_shards_lie_beside_it(pair):
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (pair[1] / "model.safetensors.index.json").write_text(json.dumps(index))

    def quantise(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(np.int8)

    edit(pair[1], quantise)
    text = refusal(*pair)
    assert "model.safetensors is what is read, and the shards of" in text
    assert text.count("int8") == 1


def test_config_that_does_not_fit_the_weights_is_noted(pair):
    edit_config(pair[1], num_key_value_heads=4)
    plan = plan_of(*pair)
    notes = " | ".join(plan.notes)
    assert "num_kv_heads is 2" in notes
    assert "self_attn.k_proj.weight would be (64, 64) by it and is (32, 64)" in notes
    assert [each.name for each in plan.projections] == ORDER


@pytest.mark.parametrize(
    "fields", [{"num_attention_heads": 3}, {"num_key_value_heads": 3}, {"hidden_size": "wide"}]
)
def test_sizes_that_make_no_sense_are_refused(pair, fields):
    edit_config(pair[1], **fields)
    assert str(pair[1] / "config.json") in refusal(*pair)


@pytest.mark.parametrize(
    "fields",
    [
        {"layer_types": "nonsense"},
        {"layer_types": ["full_attention"] * 9},
        {"rms_norm_eps": "1e-05"},
        {"pad_token_id": [0, 1]},
        {"max_window_layers": []},
        {"use_bidirectional_attention": True},
    ],
)
def test_fields_that_no_shape_depends_on_are_noted(pair, fields):
    edit_config(pair[1], **fields)
    plan = plan_of(*pair)
    assert [each.name for each in plan.projections] == ORDER
    assert ("pad_token_id" in fields) != ("the decoder cannot run" in " | ".join(plan.notes))


def test_grouping_keeps_what_differs_apart():
    faults = [Fault(f"a.{n}.b", "{name} is wrong") for n in (0, 1, 2, 5)]
    faults += [Fault("a.3.b", "{name} is worse"), Fault("c", "{name} is {odd}")]
    assert grouped(faults) == ["a.{0..2,5}.b is wrong", "a.3.b is worse", "c is {odd}"]
    assert ranges([4, 2, 3, 9, 9]) == "2..4,9"


# --- unknown architectures ---------------------------------------------------------------------


def unknown(directory: pathlib.Path, **extra: np.ndarray) -> pathlib.Path:
    tensors = {
        "h.0.attn.weight": np.ones((6, 4), np.float32),
        "h.0.bias": np.ones(4, np.float32),
        "h.0.ids": np.ones((3, 3), np.int64),
        **extra,
    }
    return tiny.write_checkpoint(directory, {"model_type": "gpt_nine"}, tensors)


def test_unknown_architecture_is_analysed_under_its_own_names(tmp_path):
    base = unknown(
        tmp_path / "base", a=np.ones((5, 4), np.float32), empty=np.ones((0, 4), np.float32)
    )
    post = unknown(
        tmp_path / "post",
        a=np.ones((5, 3), np.float32),
        b=np.ones((2, 2), np.float32),
        empty=np.ones((0, 4), np.float32),
    )
    plan = plan_of(base, post)
    assert plan.family == "unknown"
    (only,) = plan.projections
    assert (only.name, only.tensors, only.shape) == ("h.0.attn.weight", (only.name,), (4, 6))
    assert "gpt_nine" in plan.notes[0]
    assert plan.coverage["left_out"] == {
        "a": "shapes differ: (5, 4) in base, (5, 3) in post",
        "b": "only in post",
        "empty": "empty",
        "h.0.bias": "not a matrix: shape (4,)",
        "h.0.ids": "not floating point: int64 in base, int64 in post",
    }
    assert_accounted(plan)


def test_unknown_architectures_with_nothing_in_common(tmp_path):
    base = tiny.write_checkpoint(
        tmp_path / "base", {"model_type": "x"}, {"a": np.ones((2, 2), np.float32)}
    )
    post = tiny.write_checkpoint(
        tmp_path / "post", {"model_type": "x"}, {"b": np.ones((2, 2), np.float32)}
    )
    assert "no matrix of the same name and shape" in refusal(base, post)


# --- size --------------------------------------------------------------------------------------


def sparse_checkpoint(directory: pathlib.Path) -> pathlib.Path:
    """A 14B model in one sparse file: 28 GB by its size, a few KB on disk."""
    config = tiny.tiny_config(
        "qwen2",
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=48,
        num_attention_heads=40,
        num_key_value_heads=8,
        vocab_size=152064,
        tie_word_embeddings=False,
    )
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    for name, shape in tiny.tensor_shapes(config).items():
        size = 2 * int(np.prod(shape))
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + offset)
    return directory


def test_planning_reads_no_weights(tmp_path):
    base = sparse_checkpoint(tmp_path / "big")
    assert (base / "model.safetensors").stat().st_size > 28e9
    model_config(base)  # the first use of transformers imports it
    before, began = anonymous_bytes(), time.process_time()
    plan = plan_of(base, base)
    # Reading 28 GB takes tens of seconds of processor time; headers and config take milliseconds.
    assert time.process_time() - began < 2
    # 579 names twice and their records.
    assert anonymous_bytes() - before < 30e6
    assert len(plan.coverage["analysed"]) == 7 * 48


def test_reading_holds_the_stack_and_one_tensor(tmp_path):
    base = sparse_checkpoint(tmp_path / "big")
    plan = plan_of(base, base)
    projection = next(each for each in plan.projections if each.name == "k_proj")
    one = 2 * 1024 * 5120
    tracemalloc.start()
    try:
        stack = read_stack(plan.base, projection, 8, 12)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stack.nbytes == 4 * one
    assert 4 * one <= peak < 7 * one  # the tensor, and its bits while NaN is looked for


def anonymous_bytes() -> int:
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    line = next(each for each in status.read_text().splitlines() if each.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
