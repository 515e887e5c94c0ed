"""What a constructed checkpoint takes over from post, and from odd inputs."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from tests.construct import harness
from tests.construct.test_checkpoints import assert_rounded
from tests.support import tiny

OUTPUT = harness.TENSOR.format(1, "self_attn", "o_proj")
ONE: Any = {"modules": "o_proj"}


def changed(source: pathlib.Path, target: pathlib.Path, **tensors: np.ndarray) -> pathlib.Path:
    """A copy of a checkpoint, in one file, with some tensors replaced or added."""
    config = json.loads((source / "config.json").read_text())
    return tiny.write_checkpoint(target, config, tiny.read_tensors(source) | tensors)


def test_what_belongs_to_a_model_comes_along_and_code_does_not(models, tmp_path):
    base, post, _ = models("phi3")
    mine = shutil.copytree(post, tmp_path / "post")
    files = harness.companions(mine)
    harness.edit_config(mine, auto_map={"AutoModelForCausalLM": "modeling_odd.Odd"})
    out = harness.run(base, mine, "eq11", tmp_path / "out", **ONE).path
    for name, text in files.items():
        assert (out / name).read_text() == text
    names = {path.name for path in out.iterdir()}
    assert names == {*files, "README.md", "config.json", "model.safetensors"}
    assert "auto_map" not in json.loads((out / "config.json").read_text())


def test_links_into_the_blobs_of_the_hub_become_files(models, tmp_path):
    base, post, _ = models("llama")
    home = tmp_path / "models--org--name"
    snapshot = home / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (tmp_path / "LICENSE").write_text("free")
    for number, path in enumerate([*post.iterdir(), tmp_path / "LICENSE"]):
        shutil.copy(path, home / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    out = harness.run(base, snapshot, "eq14", tmp_path / "out", **ONE).path
    assert not any(path.is_symlink() for path in out.iterdir())
    assert (out / "LICENSE").read_text() == "free"
    kept = [name for name in tiny.read_tensors(post) if "o_proj" not in name]
    assert harness.bits(out, kept) == harness.bits(post, kept)


def test_a_companion_that_leads_out_of_the_checkpoint_is_refused_before_the_work(models, tmp_path):
    base, post, _ = models("llama")
    (tmp_path / "secret").write_text("mine")
    mine = shutil.copytree(post, tmp_path / "post")
    (mine / "tokenizer.json").symlink_to("../secret")
    # The request to stop would come first if it were noticed after a matrix had been built.
    stop = harness.StopAfter(40)
    harness.refused(
        tmp_path,
        lambda: harness.run(base, mine, "eq11", tmp_path / "out", stop=stop, **ONE),
        "tokenizer.json",
        "outside its directory",
    )


def test_tensors_of_all_kinds_are_carried_over(models, tmp_path):
    base, post, _ = models("llama")
    odd = {
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "model.position_ids": np.arange(9),
        "flags": np.array([True, False]),
        "bytes": np.arange(256, dtype=np.uint8),
        "inv_freq": np.geomspace(1, 1e-3, 8).astype(np.float16),
    }
    # Only where no table says what belongs to the model; both sides are then alike.
    base, post = (changed(side, tmp_path / side.name, **odd) for side in (base, post))
    for side in (base, post):
        harness.edit_config(side, model_type="novel")
    how: Any = {"modules": r"self_attn\.o_proj$"}
    same = harness.run(base, post, "eq14", tmp_path / "same", **how).path
    found = tiny.read_tensors(same)
    for name, value in odd.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].tobytes() == value.tobytes()
    half = harness.run(base, post, "eq14", tmp_path / "half", dtype="bfloat16", **how).path
    for name, value in tiny.read_tensors(half).items():
        original = odd[name].dtype if name in odd else np.dtype(np.float32)
        floating = np.issubdtype(original, np.floating)
        assert value.dtype.name == ("bfloat16" if floating else original.name), name


def test_layers_of_one_projection_may_be_stored_differently(models, tmp_path):
    base, post, _ = models("llama")
    narrow = tiny.read_tensors(post)[OUTPUT].astype(tiny.DTYPES["bfloat16"])
    mine = changed(post, tmp_path / "post", **{OUTPUT: narrow})
    found = tiny.read_tensors(harness.run(base, mine, "eq11", tmp_path / "out", **ONE).path)
    new = harness.expected(base, mine, "eq11", lambda module, name, layer: name == "o_proj")
    assert len(new) == 4
    for tensor, wanted in new.items():
        assert found[tensor].dtype.name == ("bfloat16" if tensor == OUTPUT else "float32")
        assert_rounded(found[tensor], wanted)


def test_more_words_in_the_vocabulary_of_post_are_no_obstacle(models, tmp_path):
    base, post, _ = models("llama")
    tensors = tiny.read_tensors(post)
    wider = {
        name: np.concatenate([value, value[:8]])
        for name, value in tensors.items()
        if name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    assert len(wider) == 2
    mine = changed(post, tmp_path / "post", **wider)
    harness.edit_config(mine, vocab_size=136)
    out = harness.run(base, mine, "eq14", tmp_path / "out", **ONE).path
    kept = [name for name in tensors if "o_proj" not in name]
    assert harness.bits(out, kept) == harness.bits(mine, kept)


def test_a_model_restored_from_itself_is_itself(models, tmp_path):
    _, post, _ = models("llama")
    out = harness.run(post, post, "eq11", tmp_path / "out", **ONE).path
    before = tiny.read_tensors(post)
    for name, value in tiny.read_tensors(out).items():
        # P P^T is 1 to about 1e-15, on a sum of 64 terms that may cancel.
        np.testing.assert_allclose(value, before[name], rtol=2**-23, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("equation", ["eq9", "eq11"])
def test_matrices_of_zeros_stay_finite_and_are_counted(equation, models, tmp_path):
    base, post, _ = models("llama")
    zeros = {OUTPUT: np.zeros((64, 64), np.float32)}
    sides = [changed(side, tmp_path / side.name, **zeros) for side in (base, post)]
    outcome = harness.run(sides[0], sides[1], equation, tmp_path / "out", **ONE)
    assert not tiny.read_tensors(outcome.path)[OUTPUT].any()
    assert outcome.changes["o_proj"].deficient == 1
    assert np.isfinite(outcome.changes["o_proj"].change)
    assert "nan" not in (outcome.path / "README.md").read_text("utf-8").lower()


def test_a_link_in_the_place_of_the_result_keeps_leading_to_it(models, tmp_path):
    base, post, _ = models("llama")
    shutil.copytree(base, tmp_path / "real")
    (tmp_path / "out").symlink_to("real")
    harness.run(base, post, "eq14", tmp_path / "out", overwrite=True, **ONE)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / "README.md").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "real"}


def test_a_place_is_found_through_dots_and_in_directories_that_are_made(models, tmp_path):
    base, post, _ = models("llama")
    harness.run(base, post, "eq14", tmp_path / "new" / "deep" / ".." / "out", **ONE)
    assert (tmp_path / "new" / "out" / "config.json").is_file()
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["new", "out"]


def test_a_cache_of_factors_changes_nothing_and_saves_the_work(models, tmp_path, monkeypatch):
    base, post, other = models("llama")
    how: Any = {"factor_cache": str(tmp_path / "cache"), **ONE}
    plain = harness.run(base, post, "eq10", tmp_path / "plain", signs="aligned", **ONE)
    one = harness.run(base, post, "eq10", tmp_path / "one", signs="aligned", **how)
    found, wanted = tiny.read_tensors(one.path), tiny.read_tensors(plain.path)
    for name, value in wanted.items():
        # Compiled in other pieces, so that sums may round otherwise.
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-7)
    entries = sorted((tmp_path / "cache").glob("svdjax-*"))
    assert len(entries) == 2

    def never(*_: object, **__: object) -> None:
        raise AssertionError("factors that are in the cache are computed again")

    with monkeypatch.context() as patch:
        patch.setattr("svdjax.construct.build.factor_stack", never)
        two = harness.run(base, post, "eq10", tmp_path / "two", signs="aligned", **how)
        assert harness.listing(two.path) == harness.listing(one.path)
        # Other constructions of the same two need the same factors.
        harness.run(base, post, "eq15", tmp_path / "three", **how)
    harness.run(base, other, "eq15", tmp_path / "four", **how)
    assert len(list((tmp_path / "cache").glob("svdjax-*"))) == 3
    # What is damaged is computed again.
    for file in entries[0].rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    five = harness.run(base, post, "eq10", tmp_path / "five", signs="aligned", **how)
    assert harness.listing(five.path) == harness.listing(one.path)
