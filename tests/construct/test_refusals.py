"""What the command refuses: one line, status 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.construct.checkpoint import run_construct
from svdjax.construct.job import ConstructJob
from svdjax.errors import InputError
from tests.construct import harness
from tests.support import tiny
from tests.support.commands import call
from tests.sweep.test_refusals import refused

EQ11 = ("--construction=eq11", "--modules=mlp")


def refused_at_once(flags: list[str], *words: str) -> None:
    """The same job without a process of its own: one line that has `words`."""
    pairs = (flag.removeprefix("--").partition("=") for flag in flags)
    given: dict[str, Any] = {name: value if equals else True for name, equals, value in pairs}
    with pytest.raises(InputError) as caught:
        run_construct(ConstructJob(**given))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_help_explains_and_is_quick():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "svdjax.construct", "--help"], capture_output=True, text=True
    )
    assert time.monotonic() - start < 5  # about 0.3 s; machines differ
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("eq9", "eq16", "lora", "--modules", "--alpha", "--signs", "--[no]overwrite"):
        assert word in done.stdout
    code = (
        "import runpy, sys; sys.argv = ['construct', *sys.argv[1:]]\n"
        "try: runpy.run_module('svdjax.construct', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: print('status', stop.code, 'jax' in sys.modules)"
    )
    for flags, status in ((["--help"], 0), (["--base=a", "--construction=eq11", "--out=b"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == f"status {status} False", done.stderr


FLAGS = {
    "no flags": ([], ["flags --base, --construction, --out are required"]),
    "no post": (["--base=a", "--out=o", *EQ11], ["--post is not given"]),
    "unknown construction": (["--construction=eq13"], ["eq13", "eq12"]),
    "no modules": (["--construction=eq10"], ["--modules is not given", "eq10"]),
    "bad regex": (["--construction=eq11", "--modules=("], ["modules '('", "regular"]),
    "no such module": (["--construction=eq11", "--modules=attn"], ["'attn'", "self_attn.q_proj"]),
    "layer too large": ([*EQ11, "--layers=0-99"], ["99", "layers 0-"]),
    "layers backwards": ([*EQ11, "--layers=3-1"], ["ends before it begins"]),
    "layers in words": ([*EQ11, "--layers=all"], ["'all'", "0-3,7,20-"]),
    "alpha elsewhere": ([*EQ11, "--alpha=0.9"], ["only eq9 has a factor"]),
    "alpha 0": (["--construction=eq9", "--alpha=0"], ["alpha 0", "above 0"]),
    "alpha nan": (["--construction=eq9", "--alpha=nan"], ["alpha nan"]),
    "alpha misspelt": (["--construction=eq9", "--alpha=aut"], ["did you mean 'auto'"]),
    "signs elsewhere": ([*EQ11, "--signs=aligned"], ["only eq10 and eq15"]),
    "no other": (["--construction=eq12", "--modules=mlp"], ["--other is not given"]),
    "other elsewhere": ([*EQ11, "--other=x"], ["only eq12"]),
    "rank elsewhere": ([*EQ11, "--rank=4"], ["--rank", "does not look at it"]),
    "dtype": ([*EQ11, "--dtype=int8"], ["int8"]),
    "bytes": ([*EQ11, "--group_bytes=0"], ["--group_bytes"]),
    "devices": ([*EQ11, "--devices=64"], ["devices=64"]),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags(case, models, tmp_path):
    flags, words = FLAGS[case]
    base, post, _ = models("llama")
    if case not in ("no flags", "no post"):
        flags = [f"--base={base}", f"--post={post}", f"--out={tmp_path / 'out'}", *flags]
    refused(call("construct", *flags), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_process_ends_like_that_too(models, env, tmp_path):
    base, post, _ = models("llama")
    flags, words = FLAGS["devices"]
    sides = [f"--base={base}", f"--post={post}", f"--out={tmp_path / 'out'}"]
    refused(harness.harness.finish(harness.start(env, *sides, *flags)), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copies(models, tmp_path):
    """Two checkpoints of one's own to damage, the common flags, and where nothing may appear."""
    base, post, _ = models("gemma2")
    for name, source in (("base", base), ("post", post)):
        shutil.copytree(source, tmp_path / name)
    flags = [f"--base={tmp_path / 'base'}", f"--post={tmp_path / 'post'}", *EQ11]
    return tmp_path / "base", tmp_path / "post", flags


def edit(directory, **values) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def poison(directory) -> None:
    (file,) = directory.glob("*.safetensors")
    tensors = tiny.read_tensors(directory)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name].flat[5] = np.nan
    save_file(tensors, file, metadata={"format": "pt"})


def truncate(directory) -> None:
    (file,) = directory.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("side", "damage", "words"),
    [
        ("post", poison, ["up_proj", "NaN"]),
        ("base", poison, ["up_proj", "NaN"]),
        ("post", truncate, ["truncated"]),
        ("base", shutil.rmtree, ["no such directory"]),
        ("base", lambda d: edit(d, num_hidden_layers=9), ["base", "{4..8}", "missing"]),
    ],
)
def test_checkpoints(side, damage, words, copies, tmp_path):
    base, post, flags = copies
    damage({"base": base, "post": post}[side])
    before = harness.listing(tmp_path)
    refused(harness.construct(*flags, f"--out={tmp_path / 'out'}"), *words)
    assert harness.listing(tmp_path) == before


def test_places(copies, tmp_path):
    base, post, flags = copies
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    shutil.copytree(base, tmp_path / "other")
    before = harness.listing(tmp_path)
    for out, more, words in (
        (tmp_path / "file", [], ["exists and is no directory"]),
        (tmp_path / "file" / "below", [], ["cannot be written"]),
        (tmp_path / "full", [], ["exists and is not empty"]),
        (tmp_path / "full", ["--overwrite"], ["holds no checkpoint"]),
        (tmp_path / "other", [], ["exists and is not empty"]),
        (post, ["--overwrite"], ["lies on, in or around --post"]),
        (base / "below", [], ["lies on, in or around --base"]),
        (tmp_path, ["--overwrite"], ["lies on, in or around"]),
        (tmp_path / ("x" * 300), [], ["too long"]),
    ):
        refused_at_once([*flags, *more, f"--out={out}"], *words)
        assert harness.listing(tmp_path) == before, out
    done = harness.construct(*flags, "--overwrite", f"--out={tmp_path / 'other'}")
    assert done.status == 0, done.err
    assert (tmp_path / "other" / "README.md").is_file()


def test_alpha_files(copies, tmp_path):
    _, _, flags = copies
    flags = [flag for flag in flags if "eq11" not in flag]
    path = tmp_path / "alpha.json"
    for text, words in (
        ("{", ["not valid JSON"]),
        ("[1]", ["expected a JSON object"]),
        ('{"gate_proj": 0.9}', ["no alpha for up_proj, down_proj"]),
        ('{"gate_proj": 1, "up_proj": 1, "down_proj": 1, "q_proj": 1}', ["q_proj is not among"]),
        ('{"gate_proj": "x"}', ["alpha of gate_proj is 'x'"]),
        ('{"gate_proj": true}', ["alpha of gate_proj is True"]),
        ('{"gate_proj": -1}', ["alpha of gate_proj is -1"]),
        ('{"gate_proj": 1, "gate_proj": 2}', ["occurs twice"]),
    ):
        path.write_text(text)
        more = ["--construction=eq9", f"--alpha={path}", f"--out={tmp_path / 'out'}"]
        refused_at_once([*flags, *more], "alpha.json", *words)
    # The last one as the command says it.
    refused(harness.construct(*flags, *more), "alpha.json", *words)
    assert not (tmp_path / "out").exists()


def test_an_unknown_architecture_needs_a_pattern(copies, tmp_path):
    base, post, flags = copies
    for side in (base, post):
        edit(side, model_type="novel")
    flags = [flag for flag in flags if "modules" not in flag]
    out = f"--out={tmp_path / 'out'}"
    for side in (base, post):
        tensors = tiny.read_tensors(side)
        renamed = {
            name.replace("self_attn", "attn").replace("mlp.", "ff."): value
            for name, value in tensors.items()
        }
        save_file(renamed, side / "model.safetensors", metadata={"format": "pt"})
    told = harness.construct(*flags, out, "--modules=all")
    refused(told, "no name table", "regular", r"--modules='attn\.k_proj'")
    done = harness.construct(*flags, out, r"--modules=^ff\.", "--layers=1")
    assert done.status == 0, done.err
    before, after = harness.bits(post), harness.bits(tmp_path / "out")
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {f"model.layers.1.ff.{p}_proj.weight" for p in ("gate", "up", "down")}
