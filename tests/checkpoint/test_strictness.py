"""Strict where a compared number depends on it, and notes elsewhere."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.checkpoint.files import INDEX, LINKS, follow_links
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.errors import InputError
from tests.checkpoint.test_plan import refusal
from tests.support import held, tiny
from tests.support.held import assert_same, plan_of


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
    tensors: held.Tensors = {
        name: np.array(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()
    }
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
