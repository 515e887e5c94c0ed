"""What a sweep refuses, through the command: one line, status 2, nothing left behind."""

from __future__ import annotations

import json
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from svdjax.checkpoint.files import LINKS
from tests.sweep import harness


def refused(done: harness.Done, *words: str) -> None:
    """One line on stderr that has `words`, status 2."""
    assert done.status == 2, done.err
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    for word in words:
        assert word in lines[0], lines[0]


# What tests/sweep/test_resume.py compiles too.
SMALL = ("--config.group_bytes=1", "--config.measure=vectors")


@pytest.fixture
def copies(square, tmp_path):
    """Two checkpoints of one's own to damage."""
    base, post = square
    shutil.copytree(base, tmp_path / "base")
    shutil.copytree(post, tmp_path / "post")
    return tmp_path / "base", tmp_path / "post"


def edit(directory, change) -> None:
    """Rewrites the weights of a checkpoint as `change(tensors)` leaves them."""
    (file,) = directory.glob("*.safetensors")
    with safe_open(file, framework="numpy") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def config_edit(directory, **values) -> None:
    """Changes leaves of config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


Q = "model.layers.1.self_attn.q_proj.weight"


def _poison(value):
    def change(tensors):
        tensors[Q] = tensors[Q].copy()
        tensors[Q].flat[7] = value

    return lambda directory: edit(directory, change)


def _drop(directory):
    edit(directory, lambda tensors: tensors.pop(Q))


def _reshape(directory):
    edit(directory, lambda tensors: tensors.update({Q: np.ascontiguousarray(tensors[Q][:-1])}))


def _truncate(directory):
    (file,) = directory.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-64])


def _garble(directory):
    (file,) = directory.glob("*.safetensors")
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])


def _pickle(directory):
    (file,) = directory.glob("*.safetensors")
    file.rename(directory / "pytorch_model.bin")


def _escape(directory):
    (file,) = directory.glob("*.safetensors")
    with safe_open(file, framework="numpy") as handle:
        names = list(handle.keys())
    file.rename(directory.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _quantised(directory):
    config_edit(directory, quantization_config={"quant_method": "hqq"})
    (file,) = directory.glob("*.safetensors")
    tensors = load_file(file)
    tensors[Q.replace("weight", "W_q")] = tensors.pop(Q).view(np.uint8)
    save_file(tensors, file, metadata={"format": "pt"})


BAD = {
    "nan": (_poison(np.nan), (Q, "NaN")),
    "inf": (_poison(np.inf), (Q, "Inf")),
    "missing tensor": (_drop, (Q,)),
    "wrong shape": (_reshape, (Q,)),
    "truncated": (_truncate, (".safetensors",)),
    "corrupt": (_garble, (".safetensors",)),
    "pickle": (_pickle, (".bin",)),
    "index outside": (_escape, ("outside",)),
    "another format": (_quantised, ("hqq", "W_q")),
    "no directory": (shutil.rmtree, ("post",)),
    "no config": (lambda directory: (directory / "config.json").unlink(), ("config.json",)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, copies, tmp_path):
    base, post = copies
    damage, words = BAD[case]
    damage(post)
    before = sorted(tmp_path.rglob("*"))
    done = harness.sweep_here(
        f"--config=configs/pair.py:base={base},post={post}", f"--workdir={tmp_path}/W", *SMALL
    )
    refused(done, *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_process_ends_like_that_too(copies, env, tmp_path):
    base, post = copies
    damage, words = BAD["wrong shape"]
    damage(post)
    before = sorted(tmp_path.rglob("*"))
    done = harness.sweep(
        env, f"--config=configs/pair.py:base={base},post={post}", f"--workdir={tmp_path}/W"
    )
    refused(done, *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_all_faults_of_all_pairs_at_once(copies, tmp_path):
    base, post = copies
    _reshape(post)
    config = tmp_path / "many.py"
    config.write_text(
        "from svdjax.options import default_config\n"
        "def get_config(argument=None):\n"
        "    return default_config('many', {\n"
        f"        'one': {{'base': {str(base)!r}, 'post': {str(post)!r}}},\n"
        f"        'two': {{'base': {str(base)!r}, 'post': {str(tmp_path / 'gone')!r}}},\n"
        "    })\n"
    )
    done = harness.sweep_here(f"--config={config}", f"--workdir={tmp_path}/W")
    refused(done, Q, "gone")
    assert not (tmp_path / "W").exists()


def test_links_are_followed_where_that_is_allowed(copies, tmp_path, monkeypatch):
    monkeypatch.setenv(LINKS, "")
    base, post = copies
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in post.iterdir():
        (linked / file.name).symlink_to(file)
    flags = (
        f"--config=configs/pair.py:base={base},post={linked}",
        f"--workdir={tmp_path}/W",
        "--config.stages=('spectra',)",
        *SMALL,
    )
    refused(harness.sweep_here(*flags), f"--follow_links={post}")
    refused(harness.sweep_here(*flags, "--follow_links=/nowhere"), "/nowhere", "directories")
    done = harness.sweep_here(*flags, f"--follow_links={base},{tmp_path}")
    assert done.status == 0, done.err


def test_another_width_is_refused_and_another_depth_is_not(pair_of, copies, tmp_path):
    (base, post), (other, _) = copies, pair_of("phi3")
    flags = ("--config.stages=('spectra',)", *SMALL)
    done = harness.sweep_here(
        f"--config=configs/pair.py:base={base},post={other}", f"--workdir={tmp_path}/V", *flags
    )
    refused(done, "no matrix of the same name and shape", "down_proj.weight (16, 16)", "(64, 96)")

    def drop_a_layer(tensors):
        for layer in (2, 3):
            for name in [name for name in tensors if f"layers.{layer - 1}." in name]:
                source = name.replace(f"layers.{layer - 1}.", f"layers.{layer}.")
                tensors[name] = tensors[source]
        for name in [name for name in tensors if "layers.3." in name]:
            del tensors[name]

    edit(post, drop_a_layer)
    config_edit(post, num_hidden_layers=3)
    done = harness.sweep_here(
        f"--config=configs/pair.py:base={base},post={post}", f"--workdir={tmp_path}/W", *flags
    )
    assert done.status == 0, done.err
    coverage = json.loads((tmp_path / "W" / "pair" / "summary.json").read_text())["coverage"]
    assert coverage["layers"] == {"0": 0, "1": 2, "2": 3}


def test_another_config_or_other_bytes_in_a_workdir(copies, tmp_path):
    base, post = copies
    arguments = [
        f"--config=configs/pair.py:base={base},post={post}",
        f"--workdir={tmp_path}/W",
        "--config.stages=('spectra',)",
        *SMALL,
    ]
    assert harness.sweep_here(*arguments).status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "W").rglob("*") if path.is_file()}
    refused(harness.sweep_here(*arguments, "--config.corner=10"), "corner", "25", "10")

    def nudge(tensors):
        tensors[Q] = tensors[Q].copy()
        tensors[Q].flat[0] += 1

    edit(post, nudge)
    refused(harness.sweep_here(*arguments), "other input files", str(post))
    after = {path: path.read_bytes() for path in (tmp_path / "W").rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.factorisation=svd_f16", ("svd_f16", "svd_f64")),
        ("--config.devices=99", ("99",)),
        ("--config.stages=('report',)", ("stages",)),
        ("--config.corner=0", ("corner",)),
        ("--config.nonsense=1", ("nonsense",)),
    ],
)
def test_bad_leaves(flag, words, pair_of, tmp_path):
    base, post = pair_of("llama")
    done = harness.sweep_here(
        f"--config=configs/pair.py:base={base},post={post}", f"--workdir={tmp_path}/W", flag
    )
    refused(done, *words)
    assert not (tmp_path / "W").exists()


def test_a_workdir_that_is_a_file(pair_of, tmp_path):
    base, post = pair_of("llama")
    (tmp_path / "W").write_text("mine")
    done = harness.sweep_here(
        f"--config=configs/pair.py:base={base},post={post}", f"--workdir={tmp_path}/W"
    )
    refused(done, "is a file")


def test_a_new_workdir_that_cannot_be_made_is_found_before_the_matrices(pair_of, tmp_path):
    base, post = pair_of("llama")
    (tmp_path / "mine").write_text("")
    # No user can write to /proc, root neither.
    for place in (tmp_path / "mine" / "below", pathlib.Path("/proc/svdjax/W")):
        with mock.patch("svdjax.engine.inputs.check_values", side_effect=AssertionError):
            done = harness.sweep_here(
                f"--config=configs/pair.py:base={base},post={post}", f"--workdir={place}"
            )
        refused(done, f"--workdir={place} cannot be written", "give another")


def test_unknown_architecture_is_analysed_with_a_note(copies, tmp_path):
    for directory in copies:
        config_edit(directory, model_type="martian", architectures=["MartianForCausalLM"])
    base, post = copies
    done = harness.sweep_here(
        f"--config=configs/pair.py:base={base},post={post}",
        f"--workdir={tmp_path}/W",
        "--config.stages=('spectra',)",
        *SMALL,
    )
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "W" / "pair" / "summary.json").read_text())
    assert summary["family"] == "unknown"
    assert summary["projections"]["q_proj"]["layers"] == 4
    assert harness.spectra(tmp_path / "W")
