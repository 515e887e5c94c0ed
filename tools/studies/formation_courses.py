"""Courses of training: what the matrices are at kept steps, from the start to the last one.

A course is made by the family's own training step, so it is a function of its recipe alone. Axis
legend: `T` kept steps, `L` layers, `I` in, `O` out.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from svdjax import reference
from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.model import init_params
from tools.reference.family import read_model
from tools.reference.grpo import learn, mean_rewards
from tools.reference.recipes import RECIPES, PolicyRecipe, Recipe, hf_config
from tools.reference.training import Keeping, make_step, optimiser, train
from tools.studies import formation_measures
from tools.studies.matrices import PROJECTIONS

Matrices = Mapping[str, np.ndarray]
"""Matrices by projection, [L, I, O] or, of a course, [T, L, I, O]."""

Sizes = Mapping[str, int]
"""Sizes of the model other than the family's; see `hf_config`."""


@dataclasses.dataclass(frozen=True)
class Course:
    """One training, of which some steps are kept.

    Attributes:
        folder: Where it is written.
        name: Its file.
        recipe: What is trained, with its seed and its number of steps.
        kept: Steps that are kept, ascending, the first of them 0; the last one ends it.
        sizes: Sizes of the model, where they are not the family's.
        every: Trained by `train` instead, with every multiple of this many steps kept.
        early: File of a course of the same seed, which gives the first steps: until the warm-up of
            the learning rate ends, the two are one training.
    """

    folder: str
    name: str
    recipe: Recipe
    kept: tuple[int, ...] = ()
    sizes: Sizes = dataclasses.field(default_factory=dict)
    every: int = 0
    early: str = ""

    @property
    def path(self) -> pathlib.Path:
        """The file that `run` writes."""
        return pathlib.Path(self.folder) / f"{self.name}.npz"


def recipe_of(name: str, seed: int, steps: int, rows: int = 0) -> Recipe:
    """The recipe of a member of the family with another seed and number of steps."""
    recipe = RECIPES[name]
    return dataclasses.replace(recipe, seed=seed, steps=steps, rows=rows or recipe.rows)


def run(course: Course) -> dict[str, Any]:
    """Trains a course and writes its matrices.

    Returns:
        The steps that are kept and the last mean loss. Of a shipped member's whole recipe also how
        far the last weights are from the shipped ones; of `base` whether the course that gives its
        first steps has the same matrices where both kept a step; of `rl` the mean rewards.
    """
    points: dict[int, Matrices] = {}
    result: dict[str, Any] = {}
    if isinstance(course.recipe, PolicyRecipe):
        points, result = _policy(course, course.recipe)
    elif course.every:
        points, result = _whole(course)
    else:
        for step, params, loss in follow(course.recipe, course.kept, course.sizes):
            points[step], result["last_loss"] = matrices_of(params), loss
        result["shipped"] = change_from_shipped(course, points)
    steps = sorted(points)
    course.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=course.path.parent, delete=False) as file:
        stacks: Any = {p: np.stack([points[s][p] for s in steps]) for p in PROJECTIONS}
        np.savez(file, steps=steps, **stacks)
    pathlib.Path(file.name).replace(course.path)
    return {"steps": steps, **result}


def follow(recipe: Recipe, kept: tuple[int, ...], sizes: Sizes) -> Iterator[tuple[int, Any, float]]:
    """Trains to the last of `kept`; gives each kept step, its parameters and the loss before it.

    The schedule is that of the whole recipe. A model of a family member's size starts where the
    member starts; any other one at random.
    """
    base, family_config, tokenizer = read_model(reference.path("base"))
    config = family_config
    if sizes:
        config = model_config(_raw_config(recipe, tokenizer, sizes))
    if recipe.parent and not sizes:
        params = base
    else:
        params = init_params(config, jax.random.key(recipe.seed))
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params)
    step_fn = make_step(recipe, config)
    state: Any = {"params": params, "moments": optimiser(recipe).init(params)}
    yield 0, params, float("nan")
    for first, last in itertools.pairwise(kept):
        losses = []
        for step in range(first, last):
            state, loss = step_fn(state, *recipe.batch(tokenizer, step))
            losses.append(loss)
        yield last, state["params"], float(np.mean(jax.device_get(losses)))


def matrices_of(params: Any) -> Matrices:
    """The matrices of parameters, as float32 arrays on the host."""
    layers = params["layers"]
    return {
        name: np.array(layers[module][name]["kernel"], np.float32)
        for name, module in PROJECTIONS.items()
    }


def read(course: Course) -> Matrices:
    """The matrices of a course that was run, [T, L, I, O], in float64."""
    with np.load(course.path) as file:
        return {name: file[name].astype(np.float64) for name in PROJECTIONS}


def _raw_config(recipe: Recipe, tokenizer: Tokenizer, sizes: Sizes) -> dict[str, Any]:
    return hf_config(tokenizer, chat_model=bool(recipe.parent), **sizes)


def _whole(course: Course) -> tuple[dict[int, Matrices], dict[str, Any]]:
    """Points of a recipe trained to its end; `train` goes on from what it has kept."""
    recipe = course.recipe
    tokenizer = read_model(reference.path("base"))[2]
    raw = _raw_config(recipe, tokenizer, course.sizes)
    folder = pathlib.Path(course.folder)
    keeping = Keeping(course.every, course.every)
    params = train(recipe, model_config(raw), raw, tokenizer, folder, keeping=keeping)
    points = _kept_points(course, folder)
    repeats = []
    for step, matrices in _early(course).items():
        if step in points:
            repeats += [np.array_equal(matrices[p], points[step][p]) for p in PROJECTIONS]
        points[step] = matrices
    return points, {
        "last_loss": _last_loss(recipe, folder),
        "shipped": None if course.sizes else _distance_from_shipped(recipe.name, params),
        "repeats": all(repeats) if repeats else None,
    }


def _policy(course: Course, recipe: PolicyRecipe) -> tuple[dict[int, Matrices], dict[str, Any]]:
    """Points of a policy's training; at step 0 its supervised start has ended."""
    parent, config, tokenizer = read_model(reference.path(recipe.parent))
    folder = pathlib.Path(course.folder) / course.name
    given = (config, hf_config(tokenizer, chat_model=True), tokenizer, folder)
    start = train(recipe.start, *given, parent=parent, keeping=Keeping())
    learn(recipe, *given, start=start, keeping=Keeping(course.every, course.every))
    points = {0: matrices_of(start), **_kept_points(course, folder)}
    return points, {
        "last_loss": _last_loss(recipe, folder),
        "rewards": mean_rewards(recipe.steps, folder),
    }


def _kept_points(course: Course, folder: pathlib.Path) -> dict[int, Matrices]:
    kept = folder / course.recipe.name / "checkpoints"
    return {
        step: matrices_of(_kept_params(kept / str(step)))
        for step in range(course.every, course.recipe.steps + 1, course.every)
    }


def _last_loss(recipe: Recipe, folder: pathlib.Path) -> float:
    log = (folder / recipe.name / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    return float(np.mean([json.loads(line)["loss"] for line in log[-5:]]))


def _early(course: Course) -> dict[int, Matrices]:
    """The first matrices of a course, to the end of the warm-up, from the other one's file."""
    with np.load(course.early) as file:
        steps = file["steps"].tolist()
        stacks = {name: file[name] for name in PROJECTIONS}
    return {
        step: {name: stacks[name][number] for name in PROJECTIONS}
        for number, step in enumerate(steps)
        if step <= course.recipe.warmup
    }


def _kept_params(directory: pathlib.Path) -> Any:
    with open_checkpoint(str(directory)) as checkpoint:
        return load_params(checkpoint, _config_beside(directory), np.float32)


def _config_beside(directory: pathlib.Path) -> Any:
    record = directory.parents[1] / "recipe.json"
    return model_config(json.loads(record.read_text(encoding="utf-8"))["config"])


def change_from_shipped(course: Course, points: Mapping[int, Matrices]) -> dict[str, float] | None:
    """How a member's whole change lies to the shipped one; None where the recipe is another."""
    if course.recipe != RECIPES[course.recipe.name] or course.sizes:
        return None
    shipped = matrices_of(read_model(reference.path(course.recipe.name))[0])
    first, last = points[0], points[course.recipe.steps]
    ours, theirs = (
        np.concatenate([(end[p].astype(np.float64) - first[p]).ravel() for p in PROJECTIONS])
        for end in (last, shipped)
    )
    sizes = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    return {"cosine": float(ours @ theirs) / (sizes[0] * sizes[1]), "size": sizes[0] / sizes[1]}


def _distance_from_shipped(name: str, params: Any) -> dict[str, Any]:
    """How far the weights, rounded as they ship, and their components are from the shipped ones."""
    shipped = read_model(reference.path(name))[0]
    rounded = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.bfloat16), params)
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(shipped), strict=True)
    ]
    apart = sum(float(np.sum((a - b) ** 2)) for a, b in pairs)
    found: dict[str, list[np.ndarray]] = {"vector": [], "log_apart": []}
    ours, theirs = matrices_of(params), matrices_of(shipped)
    for projection in PROJECTIONS:
        both = np.stack([theirs[projection], ours[projection]]).astype(np.float64)
        factors = formation_measures.factors_of(both)
        first = type(factors)(*(x[0] for x in factors))
        measured = formation_measures.against(first, factors)
        for key, values in found.items():
            values.append(measured[key][1])
    return {
        "equal": apart == 0,
        "relative": (apart / sum(float(np.sum(b**2)) for _, b in pairs)) ** 0.5,
        **{
            key: dict(
                zip(formation_measures.BANDS, np.concatenate(values).mean(0).round(4).tolist())
            )
            for key, values in found.items()
        },
    }
