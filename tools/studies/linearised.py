"""How much of what post-training does to the logits is first order in the weights?

`f(W_b) + J Δ` against `f(W_p)` (`svdjax.probe.linearised`) on held-out answers in the model's own
format: for the shipped members that `base` was trained to, and for short trainings by `instruct`'s
recipe from three seeds, at three sizes of Δ; by module, and along `W_b + sΔ`. Controls have the
size of Δ in every matrix: Gaussian noise, and the entries of Δ shuffled; they are looked at up to
several times that size, so that they can be compared at the same change of the logits.

    python -m tools.studies.linearised

takes about 10 minutes on one core, half of it training.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from svdjax import reference
from svdjax.model import decoder_mesh, shard_params
from svdjax.probe.linearised import ALL, SUMS, Point, linearise, parts_of, points_of
from svdjax.text.texts import read_texts, tokenise
from tools.reference.family import read_model
from tools.studies import linearised_figures
from tools.studies.short_training import ShortTraining, weights_after
from tools.studies.study import Runs, Study

CONTROLS = ("noise", "shuffled")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the study.

    Attributes:
        shipped: Post-trained members of the family.
        seeds: Of the short trainings, and of the controls' draws.
        steps: Of a short training.
        rows: Its sequences per step; 0: the recipe's.
        kept: Steps after which it is measured.
        texts: Held-out answers.
        scales: Steps along Δ beside the whole of it.
        stretched: Multiples of Δ's size at which the controls are measured beside 1.
    """

    shipped: tuple[str, ...] = ("instruct", "reasoning", "rl", "rejection")
    seeds: tuple[int, ...] = (201, 202, 203)
    steps: int = 300
    rows: int = 0
    kept: tuple[int, ...] = (50, 150, 300)
    texts: int = 45
    scales: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    stretched: tuple[float, ...] = (0.5, 2.0, 3.0, 4.0, 6.0)


FULL = Settings()
QUICK = Settings(
    shipped=("instruct",),
    seeds=(201, 202),
    steps=4,
    rows=2,
    kept=(2, 4),
    texts=2,
    scales=(0.25, 0.5),
    stretched=(0.05, 8.0, 300.0),
)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A model and an arm: Δ itself, or a control of its size by a seed.

    Attributes:
        model: A shipped member, or "trained".
        arm: "change", or one of `CONTROLS`.
        seed: Of the training, or of the control of a shipped model.
        step: Of the training; 0 for a shipped model.
        folder: Of the short trainings.
        settings: The study's.
    """

    model: str
    arm: str
    seed: int
    step: int
    folder: str
    settings: Settings

    @property
    def name(self) -> str:
        """Its name among the kept pieces."""
        return f"{self.model}-{self.step}-{self.arm}-{self.seed}"


def measure(settings: Settings, runs: Runs) -> dict[str, Any]:
    """The study's figures."""
    folder = str(runs.folder.parent / "short_training")
    last = max(settings.kept)
    pieces = [
        *(Piece(name, "change", 0, 0, folder, settings) for name in settings.shipped),
        *(
            Piece("trained", "change", seed, step, folder, settings)
            for seed in settings.seeds
            for step in settings.kept
        ),
        *(
            Piece(model, arm, seed, step, folder, settings)
            for model, step in (*((name, 0) for name in settings.shipped), ("trained", last))
            for arm in CONTROLS
            for seed in settings.seeds
        ),
    ]
    results = runs.spread(measure_piece, {piece.name: piece for piece in pieces})
    return linearised_figures.figures(settings, results)


def measure_piece(piece: Piece) -> dict[str, Any]:
    """Sums by prompt of a model's arm, as JSON."""
    settings = piece.settings
    base = _base()
    post = _post(piece)
    if piece.arm != "change":
        post = control(base, post, piece.arm, piece.seed)
        points = tuple(Point(ALL, scale) for scale in (1.0, *settings.stretched))
    else:
        points = (*(Point(ALL, scale) for scale in settings.scales), *points_of(base))
        points = tuple(dict.fromkeys(points))
    tokens, counted, config = _texts(piece.model if piece.step == 0 else "instruct", settings.texts)
    mesh = decoder_mesh(1)
    result = linearise(
        shard_params(base, mesh, np.float32),
        shard_params(post, mesh, np.float32),
        config,
        tokens,
        mesh=mesh,
        points=points,
        counted=counted,
    )
    return {
        "size": size_of(base, post),
        "shares": {part: _size(base, post, part) ** 2 for part in parts_of(base)},
        "parts": [point.part for point in points],
        "scales": [point.scale for point in points],
        "tokens": result.tokens.tolist(),
        "continued": result.continued.tolist(),
        "sums": {name: result.sums[name].tolist() for name in SUMS},
    }


def control(base: Any, post: Any, kind: str, seed: int) -> Any:
    """Base with a change of Δ's size in every matrix and vector: noise, or Δ's entries shuffled."""
    flat_base, flat_post = _flat(base), _flat(post)
    new = {}
    for number, (path, leaf) in enumerate(sorted(flat_base.items())):
        rng = np.random.default_rng([seed, number, kind == "noise"])
        delta = np.asarray(flat_post[path], np.float64) - leaf
        rows = delta.reshape(len(delta) if path.startswith("layers/") else 1, -1)
        if kind == "noise":
            drawn = rng.standard_normal(rows.shape)
            sizes = [np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, drawn)]
            drawn *= sizes[0] / sizes[1]
        else:
            drawn = rng.permuted(rows, axis=1)
        new[path] = (leaf + drawn.reshape(delta.shape)).astype(np.float32)
    return unflatten_dict(new, sep="/")


def size_of(base: Any, post: Any) -> float:
    """`‖Δ‖ / ‖W_base‖` over all weights."""
    whole = sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in _flat(base).values())
    return _size(base, post, ALL) / whole**0.5


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by path."""
    return {str(path): leaf for path, leaf in flatten_dict(tree, sep="/").items()}


def _size(base: Any, post: Any, part: str) -> float:
    trees = [_flat(tree) for tree in (base, post)]
    squares = [
        np.sum(np.square(np.asarray(trees[1][path], np.float64) - trees[0][path]))
        for path in parts_of(base)[part]
    ]
    return float(sum(squares)) ** 0.5


@functools.cache
def _base() -> Any:
    params, *_ = read_model(reference.path("base"))
    return jax.tree.map(np.asarray, params)


def _post(piece: Piece) -> Any:
    if piece.step:
        s = piece.settings
        training = ShortTraining(piece.seed, s.steps, s.rows, s.kept)
        return weights_after(training, piece.step, pathlib.Path(piece.folder))
    params, *_ = read_model(reference.path(piece.model))
    return params


@functools.cache
def _texts(name: str, count: int) -> tuple[list[list[int]], list[np.ndarray], Any]:
    """Tokens of held-out answers, which positions count, and the model's configuration."""
    _, config, _ = read_model(reference.path(name))
    path = reference.text_path(name)
    rows = tokenise(read_texts(path, count), reference.path(name), config, str(path))
    counted = [np.append(weights > 0, False) for weights in rows.weights]
    return [row.tolist() for row in rows.tokens], counted, config


STUDY = Study("linearised", FULL, QUICK, measure, linearised_figures.draw)

if __name__ == "__main__":
    STUDY.run()
