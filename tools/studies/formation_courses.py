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
from tools.reference.recipes import RECIPES, Recipe, hf_config
from tools.reference.training import Keeping, make_step, optimiser, train
from tools.studies import formation_measures

PROJECTIONS = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}

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
        kept: Steps that are kept, ascending, the first of them 0.
        every: The recipe is trained to its end by `train`, and every multiple of this many steps is
            kept beside `kept`; 0: it ends with the last step of `kept`.
        sizes: Sizes of the model, where they are not the family's.
    """

    folder: str
    name: str
    recipe: Recipe
    kept: tuple[int, ...]
    every: int = 0
    sizes: Sizes = dataclasses.field(default_factory=dict)

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
        The steps that are kept and the mean loss before each. For a recipe trained to its end also
        how far its last weights are from those of the shipped model, and whether both trainings of
        its beginning met in the same matrices.
    """
    points: dict[int, Matrices] = {}
    losses: dict[int, float] = {}
    for step, params, loss in follow(course.recipe, course.kept, course.sizes):
        points[step], losses[step] = matrices_of(params), loss
    shipped = repeats = None
    if course.every:
        params = _whole(course)
        folder = pathlib.Path(course.folder) / course.recipe.name
        early = points[course.kept[-1]]
        for step in range(course.every, course.recipe.steps + 1, course.every):
            points[step] = matrices_of(_kept_params(folder / "checkpoints" / str(step)))
        repeats = all(np.array_equal(early[p], points[course.kept[-1]][p]) for p in PROJECTIONS)
        losses |= _logged(folder / "losses.jsonl", sorted(points))
        if not course.sizes:
            shipped = _distance_from_shipped(course.recipe.name, params)
    steps = sorted(points)
    course.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=course.path.parent, delete=False) as file:
        stacks: Any = {p: np.stack([points[s][p] for s in steps]) for p in PROJECTIONS}
        np.savez(file, **stacks)
    pathlib.Path(file.name).replace(course.path)
    return {
        "steps": steps,
        "losses": [losses.get(s) for s in steps if s],
        "shipped": shipped,
        "repeats": repeats,
    }


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


def _whole(course: Course) -> Any:
    """Parameters at the end of the recipe; `train` goes on from what it has kept."""
    tokenizer = read_model(reference.path("base"))[2]
    raw = _raw_config(course.recipe, tokenizer, course.sizes)
    return train(
        course.recipe,
        model_config(raw),
        raw,
        tokenizer,
        pathlib.Path(course.folder),
        keeping=Keeping(course.every, course.every),
    )


def _kept_params(directory: pathlib.Path) -> Any:
    with open_checkpoint(str(directory)) as checkpoint:
        return load_params(checkpoint, _config_beside(directory), np.float32)


def _config_beside(directory: pathlib.Path) -> Any:
    record = directory.parents[1] / "recipe.json"
    return model_config(json.loads(record.read_text(encoding="utf-8"))["config"])


def _logged(log: pathlib.Path, steps: list[int]) -> dict[int, float]:
    """Mean loss between each step and the one before, where `train` logged any."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = {line["step"]: line["loss"] for line in lines}
    between = {
        last: [loss for step, loss in losses.items() if first < step <= last]
        for first, last in itertools.pairwise(steps)
    }
    return {step: float(np.mean(values)) for step, values in between.items() if values}


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
            key: dict(zip(formation_measures.BANDS, np.concatenate(values).mean(0).tolist()))
            for key, values in found.items()
        },
    }
