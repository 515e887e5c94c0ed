"""What is measured at the points of the grid: loss, attention entropy, answers.

Each measure puts the model on the devices when its first number is missing, and lets go of it with
the last; what it compiles for the model as it is serves at every other point.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from svdjax.checkpoint import Checkpoint, ModelConfig, digest_of, load_params
from svdjax.engine.context import Context
from svdjax.evaluate.asking import Asking, make_generator
from svdjax.evaluate.benchmarks import Grader
from svdjax.evaluate.inputs import PromptedModel
from svdjax.evaluate.job import EvaluationOptions
from svdjax.evaluate.responses import Journal, questions_digest, statistics
from svdjax.model import decoder_mesh, place
from svdjax.model.scaling import scale_projections
from svdjax.probe.probing import probe
from svdjax.temperature.options import ALL, GROUPS
from svdjax.temperature.plan import UNSCALED, Plan, Point
from svdjax.text.divergence import Divergences
from svdjax.text.texts import Rows

Found = dict[str, Any]
Measure = Callable[[Point, str], Found]


@dataclass(frozen=True)
class Target:
    """A model whose singular values are scaled.

    Attributes:
        name: ``post`` or ``base``.
        checkpoint: Its weights.
        config: Of its decoder.
        weights: Digest of all that determines them.
        reader: How it reads; None where it reads neither prompts nor questions.
    """

    name: str
    checkpoint: Checkpoint
    config: ModelConfig
    weights: str
    reader: PromptedModel | None

    def placed(self, mesh: Mesh, dtype: Any) -> Any:
        """Its parameters on the devices."""
        return place(load_params(self.checkpoint, self.config, None), mesh, dtype)

    def scaled(self, params: Any, point: Point, *, biased: bool = False) -> Any:
        """Its parameters at a point; `biased`: with the biases of what is scaled."""
        if point == UNSCALED:
            return params
        layers = np.arange(self.config.num_layers)
        chosen = (layers == point.layer) | (point.layer == ALL)
        factors = np.where(chosen, point.factor, 1.0)
        names = GROUPS[point.projection]
        return scale_projections(
            params, self.config, dict.fromkeys(names, factors), biases=names if biased else ()
        )

    def differs_from_temperature(self, projection: str) -> bool:
        """Whether scaling kernels is not yet a temperature, as biases of q or k stay behind."""
        scores = set(GROUPS[projection]) <= {"q_proj", "k_proj"}
        return scores and self.config.attention_bias and not self.config.qk_norm


@dataclass(frozen=True)
class Measures:
    """How a pair's points are measured.

    Attributes:
        plan: Of the pair.
        stage: See there.
        journal: Directory of what is kept until the stage is done.
        grader: Gives the grader, started when it is first needed.
    """

    plan: Plan
    stage: Context
    journal: pathlib.Path
    grader: Callable[[], Grader]

    def of(self, target: Target) -> dict[str, tuple[str, Callable[[], Measure]]]:
        """By name: the digest of all but the point that determines the numbers, and what measures.

        A model that lacks what a measure needs does not have it.
        """
        found: dict[str, tuple[str, Callable[[], Measure]]] = {}
        about = [target.weights, asdict(self.stage.settings.decoder)]
        rows, reader = self.plan.rows, target.reader
        if rows is not None and not self.why_no_loss(target):
            key = digest_of(["loss", target.weights, _listed(rows)])
            found["loss"] = key, lambda: self._loss(target, rows)
        if self.plan.prompts and reader is not None:
            prompts = reader.prompts[: self.plan.prompts]
            key = digest_of(["entropy", about, prompts])
            found["entropy"] = key, lambda: self._entropy(target, prompts)
        if self.plan.questions and reader is not None:
            asked = {
                name: [
                    questions_digest(some),
                    [p.tokens for p in reader.questions[name][0]][: len(some)],
                ]
                for name, some in self.plan.questions.items()
            }
            how = {k: v for k, v in asdict(self._protocol).items() if k != "batch_size"}
            key = digest_of(["answers", about, asked, how, sorted(reader.chat.stop_tokens)])
            found["answers"] = key, lambda: self._answers(target, reader, key)
        return found

    def why_no_loss(self, target: Target) -> str:
        """Why a model cannot be judged on the held-out text; empty where it can."""
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
        mesh = self._mesh
        # In float32 whatever the decoder's dtype, as Divergences computes.
        params = target.placed(mesh, jnp.float32)
        # The scaled leaves are made out of those that lie on the devices already.
        against = Divergences(params, target.config, rows, mesh=self.stage.mesh)

        def measure(point: Point, label: str) -> Found:
            found = against.measure(target.scaled(params, point))
            return {"loss": found.loss, "kl": found.kl, "agreement": found.agreement}

        return measure

    def _entropy(self, target: Target, prompts: list[tuple[int, ...]]) -> Measure:
        mesh, kind = self._mesh, jnp.dtype(self.stage.settings.decoder.dtype)
        params = target.placed(mesh, kind)

        def read(params: Any, label: str) -> tuple[list[float], list[float]]:
            found = probe(
                params,
                target.config,
                prompts,
                mesh=mesh,
                positions=1,
                dtype=kind,
                done=lambda count: self.stage.check(label),
            )
            heads = found.entropy_last.mean(axis=1), found.entropy_mean.mean(axis=1)
            return heads[0].tolist(), heads[1].tolist()

        def measure(point: Point, label: str) -> Found:
            last, every = read(target.scaled(params, point), label)
            found = {"entropy_last": last, "entropy_mean": every}
            if point != UNSCALED and target.differs_from_temperature(point.projection):
                hot = target.scaled(params, point, biased=True)
                found["temperature_last"], found["temperature_mean"] = read(hot, label)
            return found

        return measure

    def _answers(self, target: Target, reader: PromptedModel, key: str) -> Measure:
        mesh, decoder, how = self._mesh, self.stage.settings.decoder, self._protocol
        params = target.placed(mesh, jnp.dtype(decoder.dtype))

        def measure(point: Point, label: str) -> Found:
            scaled = target.scaled(params, point)
            generator = make_generator(scaled, reader.chat, how, mesh=mesh, dtype=decoder.dtype)
            found: dict[str, dict[str, float]] = {}
            for name, questions in self.plan.questions.items():
                prompts = [reader.questions[name][0][: len(questions)]]
                asking = Asking(
                    reader.chat, questions, prompts, self.grader(), how, f"{label} {name}"
                )
                path = self.journal / f"{digest_of([key, point, name])}.jsonl"
                answers, _ = asking.answers(Journal(path), lambda: generator, self.stage.check)
                counted = statistics(answers, 1)
                found[name] = {
                    "accuracy": counted["accuracy_mean"],
                    "tokens": counted["tokens_mean"],
                    "stopped": counted["stopped"],
                }
            return {"answers": found}

        return measure

    @property
    def _mesh(self) -> Mesh:
        decoder = self.stage.settings.decoder
        return decoder_mesh(self.stage.settings.devices, decoder.tensor_parallel)

    @property
    def _protocol(self) -> EvaluationOptions:
        """Greedy: a small number of questions is not to be spread by chance too."""
        how = self.stage.settings.evaluation
        limit = self.stage.settings.temperature.questions
        return replace(how, temperature=0.0, top_p=1.0, repeats=1, seed=0, limit=limit)


def _listed(rows: Rows) -> list[Any]:
    return [[row.tolist() for row in some] for some in (rows.tokens, rows.weights)]


def arrays_of(plan: Plan, found: Mapping[str, Mapping[Point, Found]]) -> dict[str, np.ndarray]:
    """Measured numbers by name, [P, R, F], those of blocks [P, R, F, B].

    Axes as `svdjax.temperature.results` has them; NaN where a point was not measured.
    """
    made: dict[str, np.ndarray] = {}
    grid = plan.grid

    def put(name: str, place: tuple[Any, ...], value: Any) -> None:
        shape = (*grid.shape, *np.shape(value))
        made.setdefault(name, np.full(shape, np.nan))[place] = value

    for values in found.values():
        for point, one in values.items():
            if point == UNSCALED:
                place = (slice(None), slice(None), grid.factors.index(1.0))
            else:
                place = (
                    grid.projections.index(point.projection),
                    grid.layers.index(point.layer),
                    grid.factors.index(point.factor),
                )
            for name, value in one.items():
                if name == "answers":
                    for benchmark, counted in value.items():
                        for key, number in counted.items():
                            put(f"{key}/{benchmark}", place, number)
                else:
                    put(name, place, np.asarray(value, np.float64))
    return made
