"""Measures at the points of the grid: loss, attention entropy, answers.

A measure puts the model on the devices when it is prepared, and frees it when it is given up;
programs compiled for the unscaled model serve at every other point.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from svdjax.checkpoint import Checkpoint, ModelConfig, digest_of, load_params
from svdjax.engine.context import Context
from svdjax.evaluate.benchmarks import Grader
from svdjax.evaluate.evaluator import Evaluator, make_generator
from svdjax.evaluate.inputs import PromptedModel
from svdjax.evaluate.job import EvaluationOptions
from svdjax.evaluate.responses import ResponseJournal, questions_digest, statistics
from svdjax.model import decoder_mesh, shard_params
from svdjax.model.scaling import scale_projections
from svdjax.probe.activations import probe
from svdjax.temperature.options import ALL, GROUPS, is_temperature
from svdjax.temperature.plan import UNSCALED, Plan, Point
from svdjax.text.divergence import Divergences
from svdjax.text.texts import Rows

Metrics = dict[str, Any]
Measure = Callable[[Point, str], Metrics]


@dataclass(frozen=True)
class Target:
    """A model whose singular values are scaled.

    Attributes:
        name: ``post`` or ``base``.
        checkpoint: The checkpoint.
        config: Configuration of its decoder.
        weights: Digest of all that determines its weights.
        reader: Its tokenised prompts and questions; None for neither.
    """

    name: str
    checkpoint: Checkpoint
    config: ModelConfig
    weights: str
    reader: PromptedModel | None

    def params(self, mesh: Mesh, dtype: Any) -> Any:
        """Its parameters on the devices."""
        return shard_params(load_params(self.checkpoint, self.config, None), mesh, dtype)

    def scaled(self, params: Any, point: Point, *, biased: bool = False) -> Any:
        """Its parameters at a point; with scaled biases too if `biased`."""
        if point == UNSCALED:
            return params
        layers = np.arange(self.config.num_layers)
        factors = np.where((layers == point.layer) | (point.layer == ALL), point.factor, 1.0)
        names = GROUPS[point.projection]
        return scale_projections(
            params, self.config, dict.fromkeys(names, factors), biases=names if biased else ()
        )

    def differs_from_temperature(self, projection: str) -> bool:
        """Whether scaling kernels is no temperature because biases of q or k are not scaled."""
        return is_temperature(projection) and self.config.attention_bias and not self.config.qk_norm


class Preparation(NamedTuple):
    """What a measure of a model takes.

    Attributes:
        key: Digest of all inputs but the point.
        prepare: Puts the model on the devices; what it returns measures at any point.
        tokens: How many the model reads and writes at a point, at most.
    """

    key: str
    prepare: Callable[[], Measure]
    tokens: int


@dataclass(frozen=True)
class Measures:
    """Measures of a pair's points.

    Attributes:
        plan: Plan of the pair.
        context: Context of the stage.
        journal: Directory of numbers that are kept until the stage is done.
        grader: Returns the grader, started when it is first needed.
    """

    plan: Plan
    context: Context
    journal: pathlib.Path
    grader: Callable[[], Grader]

    def of(self, target: Target) -> dict[str, Preparation]:
        """Measures of a model by name; one that lacks the inputs of a measure does not have it."""
        measures: dict[str, Preparation] = {}
        model = [target.weights, asdict(self.context.settings.decoder)]
        rows, reader = self.plan.rows, target.reader
        if rows is not None and not self.why_no_loss(target):
            text = [[row.tolist() for row in arrays] for arrays in (rows.tokens, rows.weights)]
            key = digest_of(["loss", target.weights, text])
            tokens = sum(map(len, rows.tokens))
            measures["loss"] = Preparation(key, lambda: self._loss(target, rows), tokens)
        if self.plan.prompts and reader is not None:
            prompts = reader.prompts[: self.plan.prompts]
            key = digest_of(["entropy", model, prompts])
            tokens = sum(map(len, prompts))
            measures["entropy"] = Preparation(key, lambda: self._entropy(target, prompts), tokens)
        if self.plan.questions and reader is not None:
            benchmarks = {
                name: [
                    questions_digest(questions),
                    [p.tokens for p in reader.questions[name][0]][: len(questions)],
                ]
                for name, questions in self.plan.questions.items()
            }
            options = {k: v for k, v in asdict(self._options).items() if k != "batch_size"}
            stops = sorted(reader.chat.stop_tokens)
            key = digest_of(["answers", model, benchmarks, options, stops])
            tokens = sum(
                len(prompt) + self._options.max_new_tokens
                for _, prompts in benchmarks.values()
                for prompt in prompts
            )
            measures["answers"] = Preparation(
                key, lambda: self._answers(target, reader, key), tokens
            )
        return measures

    def why_no_loss(self, target: Target) -> str:
        """Why a model's loss on the held-out text is not measured; empty where it is."""
        rows = self.plan.rows
        if rows is None:
            return self.plan.left_out["loss"]
        most = max(int(row.max()) for row in rows.tokens)
        if most >= target.config.vocab_size:
            return f"token {most} of post's held-out text is outside its vocabulary"
        longest, context = max(map(len, rows.tokens)), target.config.max_position_embeddings
        if longest > context:
            return f"a held-out text has {longest} tokens, and it sees at most {context}"
        return ""

    def _loss(self, target: Target, rows: Rows) -> Measure:
        # In float32 whatever the decoder's dtype, as Divergences computes.
        params = target.params(self._mesh, jnp.float32)
        divergences = Divergences(params, target.config, rows, mesh=self.context.mesh)

        def measure(point: Point, label: str) -> Metrics:
            divergence = divergences.measure(target.scaled(params, point))
            return {name: getattr(divergence, name) for name in ("loss", "kl", "agreement")}

        return measure

    def _entropy(self, target: Target, prompts: list[tuple[int, ...]]) -> Measure:
        mesh, dtype = self._mesh, jnp.dtype(self.context.settings.decoder.dtype)
        params = target.params(mesh, dtype)

        def entropies(params: Any, prefix: str, label: str) -> Metrics:
            probed = probe(
                params,
                target.config,
                prompts,
                mesh=mesh,
                positions=1,
                dtype=dtype,
                done=lambda count: self.context.check(label),
            )
            return {
                f"{prefix}_last": probed.entropy_last.mean(axis=1).tolist(),
                f"{prefix}_mean": probed.entropy_mean.mean(axis=1).tolist(),
            }

        def measure(point: Point, label: str) -> Metrics:
            metrics = entropies(target.scaled(params, point), "entropy", label)
            if point != UNSCALED and target.differs_from_temperature(point.projection):
                biased = target.scaled(params, point, biased=True)
                metrics |= entropies(biased, "temperature", label)
            return metrics

        return measure

    def _answers(self, target: Target, reader: PromptedModel, key: str) -> Measure:
        mesh, decoder, options = self._mesh, self.context.settings.decoder, self._options
        params = target.params(mesh, jnp.dtype(decoder.dtype))

        def measure(point: Point, label: str) -> Metrics:
            scaled = target.scaled(params, point)
            generator = make_generator(scaled, reader.chat, options, mesh=mesh, dtype=decoder.dtype)
            answers: dict[str, dict[str, float]] = {}
            for name, questions in self.plan.questions.items():
                prompts = [reader.questions[name][0][: len(questions)]]
                evaluator = Evaluator(
                    reader.chat, questions, prompts, self.grader(), options, f"{label} {name}"
                )
                path = self.journal / f"{digest_of([key, point, name])}.jsonl"
                responses, _ = evaluator.responses(
                    ResponseJournal(path), lambda: generator, self.context.check
                )
                summary = statistics(responses, 1)
                answers[name] = {
                    "accuracy": summary["accuracy_mean"],
                    "tokens": summary["tokens_mean"],
                    "stopped": summary["stopped"],
                }
            return {"answers": answers}

        return measure

    @property
    def _mesh(self) -> Mesh:
        settings = self.context.settings
        return decoder_mesh(settings.devices, settings.decoder.tensor_parallel)

    @property
    def _options(self) -> EvaluationOptions:
        """Greedy, because the few questions would otherwise add the noise of sampling."""
        settings = self.context.settings
        limit = settings.temperature.questions
        return replace(
            settings.evaluation, temperature=0.0, top_p=1.0, repeats=1, seed=0, limit=limit
        )


def arrays_of(plan: Plan, metrics: Mapping[str, Mapping[Point, Metrics]]) -> dict[str, np.ndarray]:
    """Arrays of a model's metrics by name, [P, R, F], with blocks [P, R, F, B].

    Axes as in `svdjax.temperature.results`; NaN where a point was not measured.

    Args:
        plan: Plan of the pair.
        metrics: Metrics by measure and point.
    """
    arrays: dict[str, np.ndarray] = {}
    grid = plan.grid
    for by_point in metrics.values():
        for point, values in by_point.items():
            if point == UNSCALED:
                index = (slice(None), slice(None), grid.factors.index(1.0))
            else:
                index = (
                    grid.projections.index(point.projection),
                    grid.layers.index(point.layer),
                    grid.factors.index(point.factor),
                )
            named = {name: value for name, value in values.items() if name != "answers"}
            for benchmark, answers in values.get("answers", {}).items():
                named |= {f"{name}/{benchmark}": value for name, value in answers.items()}
            for name, value in named.items():
                # As an array, None (a NaN of JSON) becomes NaN.
                value = np.asarray(value, np.float64)
                shape = (*grid.shape, *value.shape)
                arrays.setdefault(name, np.full(shape, np.nan))[index] = value
    return arrays
