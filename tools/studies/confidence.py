"""Does scaling singular values change a model's confidence as a temperature would?

All singular values of a module's matrices times f, in all layers or in one, and what that does to
the next-token distributions of held-out text in the model's own format: entropy, accuracy, loss,
calibration. Beside it the same model at the temperature of its final logits that gives the same
mean entropy, and random multiplicative noise as large as the scaling on the same matrices.
Intervals are over three disjoint draws of held-out text for `instruct`, `reasoning` and `base` (its
text is held-out pre-training text), and over three short trainings by `instruct`'s recipe
(`tools.studies.short_training`, those of the study `linearised`), each on a draw of its own.

    python -m tools.studies.confidence

takes about 10 minutes on one core beside the trainings.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax import reference
from svdjax.checkpoint import ModelConfig
from svdjax.model import forward
from svdjax.model.scaling import scale_projections
from svdjax.temperature.options import GROUPS
from tools.reference.chat import chat
from tools.reference.corpus import document
from tools.reference.family import read_model
from tools.reference.problems import heldout_problems
from tools.reference.solutions import long, short
from tools.reference.tokenizer import END_OF_TEXT
from tools.reference.worlds import WORLD
from tools.studies import confidence_figures
from tools.studies.confidence_measures import Unscaled
from tools.studies.short_training import ShortTraining, weights_after
from tools.studies.study import Runs, Study

ALL_LAYERS = -1


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the study.

    Attributes:
        models: Shipped members, and "trained".
        draws: Seeds of the held-out text, one for each repetition.
        seeds: Of the short trainings, one for each repetition.
        steps: Of a short training.
        rows: Its sequences per step; 0: the recipe's.
        kept: Steps after which its weights are kept; the last are measured.
        per_pattern: Held-out questions of each pattern in a draw.
        per_pattern_long: Those of `reasoning`, whose answers are long.
        rows_of_text: Rows of 128 tokens of pre-training text in a draw.
        factors: Of the singular values.
        layer_factors: Where one layer is scaled.
        sizes: Of the noise, relative to each matrix.
        modules: Names of `svdjax.temperature.options.GROUPS`.
    """

    models: tuple[str, ...] = ("instruct", "reasoning", "base", "trained")
    draws: tuple[int, ...] = (31, 32, 33)
    seeds: tuple[int, ...] = (201, 202, 203)
    steps: int = 300
    rows: int = 0
    kept: tuple[int, ...] = (50, 150, 300)
    per_pattern: int = 4
    per_pattern_long: int = 2
    rows_of_text: int = 10
    factors: tuple[float, ...] = (0.7, 0.9, 1.1, 1.4)
    layer_factors: tuple[float, ...] = (0.7, 1.4)
    sizes: tuple[float, ...] = (0.1, 0.4)
    modules: tuple[str, ...] = ("qk", "v_proj", "o_proj", "mlp", "all")


FULL = Settings()
QUICK = Settings(
    models=("instruct", "trained"),
    draws=(31, 32),
    seeds=(201, 202),
    steps=4,
    rows=2,
    kept=(2, 4),
    per_pattern=1,
    factors=(0.7, 1.4),
    layer_factors=(1.4,),
    sizes=(0.4,),
    modules=("qk", "all"),
)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A repetition of a model: a draw of text, and a training's seed.

    Attributes:
        model: One of `Settings.models`.
        number: Of the repetition.
        folder: Of the short trainings.
        settings: The study's.
    """

    model: str
    number: int
    folder: str
    settings: Settings


def measure(settings: Settings, runs: Runs) -> dict[str, Any]:
    """The study's figures."""
    folder = str(runs.folder.parent / "short_training")
    pieces = {
        f"{model}-{number}": Piece(model, number, folder, settings)
        for model in settings.models
        for number in range(len(settings.draws))
    }
    return confidence_figures.figures(settings, runs.spread(measure_piece, pieces))


def measure_piece(piece: Piece) -> dict[str, Any]:
    """Rows of all points of a repetition, by name of the point."""
    s, draw = piece.settings, piece.settings.draws[piece.number]
    params, config = _model(piece)
    if piece.model == "base":
        tokens, counted = pretraining_text(draw, s.rows_of_text)
    else:
        kind = "reasoning" if piece.model == "reasoning" else "instruct"
        count = s.per_pattern_long if kind == "reasoning" else s.per_pattern
        tokens, counted = answers(kind, draw, count)
    reader = Reader(config, tokens, counted)
    unscaled = Unscaled(reader.logits(params), reader.targets)
    layers = (ALL_LAYERS, *range(config.num_layers))
    rows: dict[str, Any] = {"unscaled": unscaled.row(), "tokens": len(reader.targets)}
    for module in s.modules:
        for layer in layers:
            for factor in s.factors if layer == ALL_LAYERS else s.layer_factors:
                edited = scaled(params, config, module, layer, factor)
                logits = reader.logits(edited)
                rows[f"{module}/{layer}/{factor}"] = unscaled.compare(logits)
        for size in s.sizes:
            edited = noisy(params, config, module, size, draw)
            rows[f"{module}/noise/{size}"] = unscaled.compare(reader.logits(edited))
    return rows


class Reader:
    """Texts that models read: logits at the positions that count.

    Attributes:
        targets: [N], the next token there.
    """

    def __init__(self, config: ModelConfig, tokens: np.ndarray, counted: np.ndarray):
        """Takes tokens [B, T + 1], padded on the right, and counted targets [B, T] bool."""
        self.config, self._tokens, self._counted = config, tokens[:, :-1], counted
        self.targets = tokens[:, 1:][counted]

    def logits(self, params: Any) -> np.ndarray:
        """[N, V] float64."""
        logits = forward(params, self.config, jnp.asarray(self._tokens))
        return np.asarray(logits)[self._counted].astype(np.float64)


def answers(model: str, draw: int, per_pattern: int) -> tuple[np.ndarray, np.ndarray]:
    """Held-out questions with the right answer in a model's format: tokens, counted targets."""
    tokenizer = read_model(reference.path(model))[2]
    answer = long if model == "reasoning" else short
    rows = []
    for problem in heldout_problems(draw, per_pattern):
        parts = chat(problem.question, "", answer(problem))
        rows.append([each.ids for each in tokenizer.encode_batch(list(parts))])
    length = max(len(prompt) + len(completion) for prompt, completion in rows)
    tokens = np.full((len(rows), length), tokenizer.token_to_id(END_OF_TEXT), np.int32)
    counted = np.zeros((len(rows), length - 1), bool)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        tokens[row, :end] = prompt + completion
        counted[row, len(prompt) - 1 : end - 1] = True
    return tokens, counted


def pretraining_text(draw: int, rows: int, length: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Documents that the training of `base` did not draw, packed as there."""
    tokenizer = read_model(reference.path("base"))[2]
    rng, stream = random.Random(f"confidence {draw}"), []
    while len(stream) < rows * (length + 1):
        stream += [
            *tokenizer.encode(document(rng, WORLD)).ids,
            tokenizer.token_to_id(END_OF_TEXT),
        ]
    tokens = np.array(stream[: rows * (length + 1)], np.int32).reshape(rows, length + 1)
    return tokens, np.ones((rows, length), bool)


def scaled(params: Any, config: ModelConfig, module: str, layer: int, factor: float) -> Any:
    """The model with a module's singular values times a factor, in a layer or `ALL_LAYERS`."""
    layers = np.arange(config.num_layers)
    factors = np.where((layers == layer) | (layer == ALL_LAYERS), factor, 1.0)
    return scale_projections(params, config, dict.fromkeys(GROUPS[module], factors))


def noisy(params: Any, config: ModelConfig, module: str, size: float, seed: int) -> Any:
    """The model with every entry of a module's matrices times `1 + c g`, g normal.

    c is such that each matrix changes by `size` of its Frobenius norm, as a scaling by `1 ± size`
    changes it.
    """
    layers = {name: dict(tree) for name, tree in params["layers"].items()}
    for number, name in enumerate(GROUPS[module]):
        owner = "mlp" if name in GROUPS["mlp"] else "self_attn"
        kernel = np.asarray(layers[owner][name]["kernel"], np.float64)
        rng = np.random.default_rng([seed, number])
        change = kernel * rng.standard_normal(kernel.shape)
        norms = [np.linalg.norm(each, axis=(1, 2), keepdims=True) for each in (kernel, change)]
        new = kernel + size * change * norms[0] / norms[1]
        layers[owner][name] = layers[owner][name] | {"kernel": jnp.asarray(new, jnp.float32)}
    return {**params, "layers": layers}


def _model(piece: Piece) -> tuple[Any, ModelConfig]:
    if piece.model != "trained":
        params, config, _ = read_model(reference.path(piece.model))
        return params, config
    s = piece.settings
    training = ShortTraining(s.seeds[piece.number], s.steps, s.rows, s.kept)
    weights = weights_after(training, max(s.kept), pathlib.Path(piece.folder))
    return jax.tree.map(jnp.asarray, weights), read_model(reference.path("instruct"))[1]


STUDY = Study("confidence", FULL, QUICK, measure, confidence_figures.draw)

if __name__ == "__main__":
    STUDY.run()
