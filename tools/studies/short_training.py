"""Short trainings by `instruct`'s recipe from the shipped base, shared by studies: one per seed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from svdjax import reference
from svdjax.atomic import read_npz, write_npz
from svdjax.checkpoint import model_config
from svdjax.locks import Lock
from tools.reference.family import read_model
from tools.reference.recipes import RECIPES
from tools.reference.training import Keeping, optimiser, train


@dataclasses.dataclass(frozen=True)
class ShortTraining:
    """One training.

    Attributes:
        seed: Of its data.
        steps: Steps; the learning rate falls over all of them.
        rows: Sequences per step; 0: the recipe's.
        kept: Steps after which the weights are kept.
    """

    seed: int
    steps: int
    rows: int
    kept: tuple[int, ...]

    def path(self, folder: pathlib.Path, step: int) -> pathlib.Path:
        """Where the weights after a step are kept."""
        return folder / f"seed{self.seed}-{self.steps}x{self.rows}" / f"{step}.npz"


def weights_after(training: ShortTraining, step: int, folder: pathlib.Path) -> dict[str, Any]:
    """Weights after a step, float32 arrays; trains where `folder` does not have them yet.

    Of two studies at once the second waits for the first one's training.
    """
    path = training.path(folder, step)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(Lock(path.parent / "lock")) as lock:
            lock.acquire(patience=3600)
            if not path.is_file():
                _train(training, folder)
    return unflatten_dict(read_npz(path), sep="/")


def _train(training: ShortTraining, folder: pathlib.Path) -> None:
    recipe = RECIPES["instruct"]
    rows = training.rows or recipe.rows
    recipe = dataclasses.replace(recipe, seed=training.seed, steps=training.steps, rows=rows)
    parent, _, tokenizer = read_model(reference.path(recipe.parent))
    raw = json.loads((reference.path("instruct") / "config.json").read_text("utf-8"))
    work = training.path(folder, 0).parent / "work"
    every = int(np.gcd.reduce(training.kept))
    train(
        recipe,
        model_config(raw),
        raw,
        tokenizer,
        work,
        parent=parent,
        keeping=Keeping(every, every),
    )
    state = {"params": parent, "moments": optimiser(recipe).init(parent)}
    with ocp.CheckpointManager((work / recipe.name / "checkpoints").resolve()) as manager:
        for step in training.kept:
            kept: Any = manager.restore(step, args=ocp.args.StandardRestore(state))
            params = jax.tree.map(np.asarray, kept["params"])
            write_npz(training.path(folder, step), flatten_dict(params, sep="/"))
    shutil.rmtree(work)
