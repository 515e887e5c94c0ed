"""Plans of the temperature stage, made before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from svdjax.checkpoint import model_config
from svdjax.construct.heldout import Heldout
from svdjax.engine.inputs import PairJob
from svdjax.errors import InputError
from svdjax.evaluate.benchmarks import Question
from svdjax.evaluate.inputs import EvalInputs
from svdjax.temperature.options import ALL, TemperatureOptions
from svdjax.text.texts import Rows

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings


class Point(NamedTuple):
    """A point of the grid; `layer` is `ALL` where all layers are scaled together."""

    projection: str
    layer: int
    factor: float


UNSCALED = Point("", ALL, 1.0)


@dataclass(frozen=True)
class Grid:
    """What is scaled, and by how much.

    Attributes:
        projections: Names of `GROUPS`.
        layers: Those that are scaled one at a time, ascending, then `ALL`.
        factors: Ascending, 1 among them.
    """

    projections: tuple[str, ...]
    layers: tuple[int, ...]
    factors: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an array with a number for every point."""
        return len(self.projections), len(self.layers), len(self.factors)

    def points(self) -> Iterator[Point]:
        """The unscaled model, then every point at which it is scaled."""
        yield UNSCALED
        for projection in self.projections:
            for layer in self.layers:
                for factor in self.factors:
                    if factor != 1.0:
                        yield Point(projection, layer, factor)


@dataclass(frozen=True)
class Plan:
    """Plan of a pair.

    Attributes:
        grid: The points.
        path: Path of the held-out text; empty without one.
        rows: Tokens of its used texts; None without one.
        prompts: Number of prompts that are read, from the first.
        questions: Questions that are asked, by benchmark.
        left_out: Measures that are left out, and why.
    """

    grid: Grid
    path: str = ""
    rows: Rows | None = None
    prompts: int = 0
    questions: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def asks(self, point: Point, options: TemperatureOptions) -> bool:
        """Whether questions are asked at a point."""
        return point.layer == ALL or options.ask_layers


def read_plans(
    jobs: Sequence[PairJob],
    settings: Settings,
    heldout: Mapping[str, Heldout],
    inputs: EvalInputs | None,
) -> dict[str, Plan]:
    """Plans by pair.

    Raises:
        InputError: With every fault of every pair: an architecture that the decoder cannot run, a
            layer that does not exist, or nothing that could be measured.
    """
    plans, faults = {}, []
    for job in jobs:
        name = job.spec.name
        try:
            plans[name] = _plan(job, settings, heldout.get(name), inputs)
        except InputError as error:
            faults.append(f"{job.spec.label}: {error}")
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return plans


def _plan(
    job: PairJob, settings: Settings, heldout: Heldout | None, inputs: EvalInputs | None
) -> Plan:
    options = settings.temperature
    config = model_config(job.plan.post)
    try:
        layers = options.chosen(config.num_layers)
    except InputError as error:
        raise InputError(f"config.temperature.layers={options.layers}: {error}") from None
    left_out, rows, questions = {}, None, {}
    if heldout is None:
        left_out["loss"] = "the pair names no held-out text"
    else:
        limit = options.texts or None
        rows = Rows(heldout.rows.tokens[:limit], heldout.rows.weights[:limit])
    prompts = len(inputs.prompts[: options.prompts or None]) if inputs else 0
    if not prompts:
        left_out["entropy"] = "config.probes.prompts names no prompts"
    if not options.questions:
        left_out["accuracy"] = "config.temperature.questions is 0"
    elif inputs is None or not inputs.questions:
        left_out["accuracy"] = "config.benchmarks names no data"
    else:
        questions = {name: each[: options.questions] for name, each in inputs.questions.items()}
    if rows is None and not prompts and not questions:
        reasons = "; ".join(f"no {measure}: {why}" for measure, why in left_out.items())
        raise InputError(
            f"there is nothing for the temperature stage to measure ({reasons}); give one of them, "
            "or leave the stage out"
        )
    return Plan(
        grid=Grid(options.projections, (*layers, ALL), options.grid),
        path=str(heldout.path) if heldout else "",
        rows=rows,
        prompts=prompts,
        questions=questions,
        left_out=left_out,
    )
