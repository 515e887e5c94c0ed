"""What the temperature stage does to a pair, settled before anything is computed."""

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
        """Of an array with a number for every point."""
        return len(self.projections), len(self.layers), len(self.factors)

    def points(self) -> Iterator[Point]:
        """The model as it is, then every point at which it is scaled."""
        yield UNSCALED
        for projection in self.projections:
            for layer in self.layers:
                for factor in self.factors:
                    if factor != 1.0:
                        yield Point(projection, layer, factor)


@dataclass(frozen=True)
class Plan:
    """What is done to a pair's models.

    Attributes:
        grid: The points.
        path: Of the held-out text; empty without one.
        rows: Its tokens, as many as are used; None without one.
        prompts: How many prompts are read, the first ones.
        questions: By benchmark, as many as are asked.
        left_out: What is not measured, and why.
    """

    grid: Grid
    path: str = ""
    rows: Rows | None = None
    prompts: int = 0
    questions: Mapping[str, tuple[Question, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def asks(self, point: Point, how: TemperatureOptions) -> bool:
        """Whether questions are asked at a point."""
        return point.layer == ALL or how.ask_layers


def read_plans(
    jobs: Sequence[PairJob],
    settings: Settings,
    heldout: Mapping[str, Heldout],
    material: EvalInputs | None,
) -> dict[str, Plan]:
    """Plans by pair.

    Raises:
        InputError: With every fault of every pair: an architecture that the decoder cannot run, a
            layer that is not there, or nothing that could be measured.
    """
    found, faults = {}, []
    for job in jobs:
        name = job.spec.name
        try:
            found[name] = _plan(job, settings, heldout.get(name), material)
        except InputError as error:
            faults.append(f"{job.spec.label}: {error}")
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return found


def _plan(
    job: PairJob, settings: Settings, heldout: Heldout | None, material: EvalInputs | None
) -> Plan:
    how = settings.temperature
    config = model_config(job.plan.post.home)
    try:
        layers = how.chosen(config.num_layers)
    except InputError as error:
        raise InputError(f"config.temperature.layers={how.layers}: {error}") from None
    left_out = {}
    rows = None
    if heldout is None:
        left_out["loss"] = "the pair names no held-out text"
    else:
        most = how.texts or None
        rows = Rows(heldout.rows.tokens[:most], heldout.rows.weights[:most])
    prompts = len(material.prompts) if material else 0
    prompts = min(how.prompts or prompts, prompts)
    if not prompts:
        left_out["entropy"] = "config.probes.prompts names no prompts"
    questions = {}
    if not how.questions:
        left_out["accuracy"] = "config.temperature.questions is 0"
    elif material is None or not material.questions:
        left_out["accuracy"] = "config.benchmarks names no data"
    else:
        questions = {name: some[: how.questions] for name, some in material.questions.items()}
    if rows is None and not prompts and not questions:
        reasons = "; ".join(f"no {what}: {why}" for what, why in left_out.items())
        raise InputError(
            f"there is nothing for the temperature stage to measure ({reasons}); give one of them, "
            "or leave the stage out"
        )
    return Plan(
        grid=Grid(how.projections, (*layers, ALL), how.grid),
        path=str(heldout.path) if heldout else "",
        rows=rows,
        prompts=prompts,
        questions=questions,
        left_out=left_out,
    )
