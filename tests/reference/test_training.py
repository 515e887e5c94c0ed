"""Training survives being killed: the resumed run ends with the very same weights."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest
from tokenizers import Tokenizer

from svdjax.checkpoint import model_config, open_checkpoint, plan_pair
from svdjax.errors import InputError
from svdjax.sweep.trajectory import find_steps
from tools.reference.recipes import Recipe
from tools.reference.training import Keeping, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 60


def _start(env: dict[str, str], folder: pathlib.Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "tools/train_reference.py", "--model=base", "--nograded"]
    command += [f"--out={folder / 'out'}", f"--workdir={folder / 'work'}", f"--steps={STEPS}"]
    command += ["--rows=2", "--layers=2", "--hidden_size=32", "--intermediate_size=48"]
    return subprocess.Popen(
        [*command, *flags],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def undisturbed(env, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    _finish(_start(env, folder, "--save_every=10", "--keep_steps=20"))
    return folder


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(env, tmp_path, undisturbed):
    process = _start(env, tmp_path, "--save_every=10", "--keep_steps=20")
    checkpoints = tmp_path / "work" / "base" / "checkpoints"
    while not (checkpoints / "20").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (checkpoints / str(STEPS)).exists()
    assert "base: loss" in _finish(_start(env, tmp_path, "--save_every=10", "--keep_steps=20"))
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        there = (undisturbed / "out" / "base" / file).read_bytes()
        assert (tmp_path / "out" / "base" / file).read_bytes() == there
    losses = (tmp_path / "work" / "base" / "losses.jsonl").read_text().splitlines()
    # It went on: the steps before the last checkpoint were not taken twice.
    assert [json.loads(line)["step"] for line in losses].count(20) == 1


def test_keep_steps_keeps_a_series(undisturbed):
    kept = {f.name for f in (undisturbed / "work" / "base" / "checkpoints").iterdir()}
    assert {"20", "40", "60"} <= kept
    assert "10" not in kept


def test_kept_steps_open_as_checkpoints(undisturbed):
    steps = find_steps(undisturbed / "work" / "base" / "checkpoints")
    assert list(steps) == ["20", "40", "60"]
    last, written = (open_checkpoint(p) for p in (steps["60"], undisturbed / "out" / "base"))
    assert last.names == written.names
    for name in written.names:
        rounded = last.read(name).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(rounded, written.read(name))
    plan = plan_pair(open_checkpoint(steps["20"]), last)
    assert len(plan.projections) == 7


def test_other_settings_are_refused_in_the_same_workdir(undisturbed):
    record = undisturbed / "work" / "base" / "recipe.json"
    begun = json.loads(record.read_text(encoding="utf-8"))
    recipe = dataclasses.replace(Recipe(**begun["recipe"]), peak=0.5)
    config = begun["config"]
    with pytest.raises(InputError, match=r"recipe\.peak: 0\.003 there, 0\.5 now"):
        train(
            recipe,
            model_config(config),
            config,
            Tokenizer.from_file(str(undisturbed / "out" / "base" / "tokenizer.json")),
            undisturbed / "work",
            keeping=Keeping(),
        )


def test_loss_falls(undisturbed):
    log = (undisturbed / "work" / "base" / "losses.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    assert losses[-1] < losses[0] - 0.5
