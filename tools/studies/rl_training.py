"""The models of `tools.studies.rl`: from one start each, trained by reward and by its controls."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from svdjax import reference
from svdjax.checkpoint import ModelConfig
from svdjax.model import Sampling
from tools.reference import grading, grpo, rollouts
from tools.reference.chat import END
from tools.reference.family import read_model
from tools.reference.recipes import RECIPES, PolicyRecipe, hf_config
from tools.reference.solutions import short
from tools.reference.training import Keeping, train

ARMS = ("rl", "rejection", "supervised")
KEEPING = Keeping(save_every=50)


@dataclasses.dataclass(frozen=True)
class Training:
    """How the models are trained; the recipe of the shipped `rl` where nothing is changed.

    Attributes:
        parent: The member of the family that all start from.
        start_steps: Steps of the supervised start.
        steps: Steps of every arm.
        rows: Answers sampled per step.
        temperature: Of the sampling.
        questions: Held-out questions on which the models are graded.
    """

    parent: str
    start_steps: int
    steps: int
    rows: int
    temperature: float
    questions: int


class Run(NamedTuple):
    """One model to be trained: `start` or one of `ARMS`, its seed, and the study's folder."""

    arm: str
    seed: int
    training: Training
    folder: pathlib.Path


def recipe_of(run: Run) -> PolicyRecipe:
    """The shipped recipe with the seed and the sizes of a run."""
    shipped = RECIPES["rl"]
    assert isinstance(shipped, PolicyRecipe)
    told = run.training
    start = dataclasses.replace(shipped.start, steps=told.start_steps, seed=run.seed)
    return dataclasses.replace(
        shipped,
        name=run.arm,
        start=start,
        steps=told.steps,
        rows=told.rows,
        temperature=told.temperature,
        seed=run.seed,
    )


def weights_path(folder: pathlib.Path, arm: str, seed: int) -> pathlib.Path:
    """Where the trained weights of a run lie."""
    return folder / "weights" / f"{arm}-{seed}.npz"


def train_run(run: Run) -> dict[str, Any]:
    """Trains a model, keeps its matrices, and says how many held-out questions it gets right."""
    parent, config, tokenizer = read_model(reference.path(run.training.parent))
    raw_config = hf_config(tokenizer, chat_model=True)
    work = run.folder / "training" / str(run.seed)
    given = (config, raw_config, tokenizer, work)
    recipe = recipe_of(run)
    params = train(recipe.start, *given, parent=parent, keeping=KEEPING)
    if run.arm != "start":
        params = grpo.learn(recipe, *given, start=params, keeping=KEEPING)
    path = weights_path(run.folder, run.arm, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Any] = matrices(params)
    np.savez(path, **weights)
    result: dict[str, Any] = accuracy(params, config, tokenizer, run.training.questions)
    if run.arm == "rl":
        result["rewards"] = grpo.mean_rewards(recipe.steps, work)
    return result


def accuracy(
    params: Any, config: ModelConfig, tokenizer: Tokenizer, questions: int
) -> dict[str, float]:
    """Shares of held-out questions answered right: greedily, and sampled at temperature 1."""
    records = grading.read_heldout(reference.heldout_path())[:questions]
    asked = [record["question"] for record in records]
    result = {}
    for name, sampling in (("greedy", None), ("sampled", Sampling(temperature=1.0, seed=1))):
        answers = grading.respond(
            params, config, tokenizer, asked, max_new_tokens=48, sampling=sampling
        )
        result[name] = grading.grade(records, answers)["all"] / 100
    return result


def solution_share(run: Run) -> float:
    """Share of the right answers that `rl` sampled which are the given solution, word for word."""
    recipe = recipe_of(run)
    tokenizer = read_model(reference.path(run.training.parent))[2]
    work = grpo.rollouts_folder(run.folder / "training" / str(run.seed))
    same = []
    for step in range(recipe.steps):
        problems = rollouts.step_questions(recipe, step)
        solutions = [tokenizer.encode(short(each) + END).ids for each in problems]
        answers = rollouts.kept_answers(work, step)
        same += [each.tokens == solutions[each.question] for each in answers if each.right]
    return float(np.mean(same))


def training_minutes(folder: pathlib.Path) -> float:
    """What all training of a study took, from its logs."""
    logs = sorted((folder / "training").glob("*/*/losses.jsonl"))
    lines = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    return sum(json.loads(line)["seconds"] for line in lines) / 60


def matrices(params: Any) -> dict[str, np.ndarray]:
    """The linear layers of a model, float32 [L, I, O] by projection."""
    leaves = jax.tree_util.tree_flatten_with_path(params["layers"])[0]
    return {
        path[-2].key: np.asarray(leaf, np.float32)
        for path, leaf in leaves
        if path[-1].key == "kernel"
    }


def load_weights(folder: pathlib.Path, arm: str, seed: int) -> dict[str, np.ndarray]:
    """The matrices of a trained run."""
    with np.load(weights_path(folder, arm, seed)) as archive:
        return dict(archive)


def shipped_matrices(name: str) -> dict[str, np.ndarray]:
    """Those of a member of the reference family."""
    return matrices(read_model(reference.path(name))[0])
