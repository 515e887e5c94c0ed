"""Sections of the pages about scaled singular values."""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report.cells import Spec, dec, plain, view
from svdjax.report.numbers import decimal, ends, significant
from svdjax.report.section import Section
from svdjax.report.table import Table
from svdjax.temperature.options import ALL, GROUPS, is_temperature, temperature
from svdjax.temperature.plots import temperature_plots

if TYPE_CHECKING:
    from svdjax.temperature.results import TemperatureResults

_SCALARS = ("loss", "kl", "agreement")
_BLOCKS = ("entropy_last", "entropy_mean", "temperature_last", "temperature_mean")
_ANSWERS = ("accuracy", "tokens", "stopped")


def temperature_section(results: TemperatureResults, folder: pathlib.Path) -> Section:
    """Writes the table of a pair's scaled models; returns its page's section.

    Args:
        results: Results of the temperature stage.
        folder: The pair's directory.
    """
    table = temperature_table(results)
    table.write(folder / "tables")
    together = Table(
        table.name, table.columns, tuple(row for row in table.rows if row["layer"] == "all")
    )
    factors = ", ".join(f"{factor:g}" for factor in results.factors if factor != 1)
    return Section(
        lead=(
            f"Singular values of {', '.join(results.projections)} were multiplied by {factors}, in "
            "one layer at a time and in all together."
        ),
        findings=[("", line) for line in _findings(results)],
        facts=[("scaled models measured on", _measured_on(results))],
        notes=[
            *results.notes,
            *(f"Scaled models, no {measure}: {why}." for measure, why in results.left_out.items()),
        ],
        tables=[view(together, _TITLE, _TABLE, _cells(results), text={"model", "scaled"})],
        plots=list(temperature_plots(results)),
        files=[table.name],
    )


def index_temperature(results: Mapping[str, TemperatureResults]) -> Section | None:
    """Index section with a line for every pair; None where nothing was scaled."""
    if not results:
        return None
    return Section("", [(pair, temperature_line(each)) for pair, each in results.items()])


def temperature_line(results: TemperatureResults) -> str:
    """A pair's line on the index: effects of scaling all layers on the first model's loss."""
    model = results.models[0]
    loss, kl = results.get(model, "loss"), results.get(model, "kl")
    if loss is None or kl is None:
        return (
            f"{', '.join(results.projections)} of {' and '.join(results.models)} were scaled; no "
            "loss was measured."
        )
    return " ".join(
        f"{projection} of {model}: {next(_loss_findings(results, loss[p], kl[p]))}."
        for p, projection in enumerate(results.projections)
    )


def temperature_table(results: TemperatureResults) -> Table:
    """Table with a row per model, projection, layer and factor; NaN where it was not measured.

    Entropies are means over the blocks; ``own`` is the entropy of the scaled layer's block.
    """
    answers = [f"{measure}_{name}" for name in results.benchmarks for measure in _ANSWERS]
    columns = (
        *("model", "projection", "layer", "factor", "temperature"),
        *_SCALARS,
        "loss_change",
        *_BLOCKS,
        "entropy_last_own",
        *answers,
    )
    return Table("temperature", columns, tuple(_rows(results)))


def _rows(results: TemperatureResults) -> Iterator[dict[str, Any]]:
    grid = itertools.product(
        results.models,
        enumerate(results.projections),
        enumerate(results.layers),
        enumerate(results.factors),
    )
    unscaled = results.factors.index(1.0)
    for model, (p, projection), (r, layer), (f, factor) in grid:
        arrays = {
            name.partition("/")[2]: array[p, r]
            for name, array in results.values.items()
            if name.startswith(f"{model}/")
        }
        values = {name: array[f] for name, array in arrays.items()}
        row: dict[str, Any] = {
            "model": model,
            "projection": projection,
            "layer": "all" if layer == ALL else layer,
            "factor": factor,
            "temperature": temperature(GROUPS[projection], factor),
            **{name: float(values.get(name, math.nan)) for name in _SCALARS},
            "loss_change": math.nan,
            **{name: float(np.mean(values.get(name, math.nan))) for name in _BLOCKS},
            "entropy_last_own": math.nan,
        }
        if "loss" in arrays:
            row["loss_change"] = row["loss"] - float(arrays["loss"][unscaled])
        if "entropy_last" in arrays and layer != ALL:
            row["entropy_last_own"] = float(values["entropy_last"][layer])
        for benchmark, measure in itertools.product(results.benchmarks, _ANSWERS):
            value = values.get(f"{measure}/{benchmark}", math.nan)
            row[f"{measure}_{benchmark}"] = float(value)
        yield row


def _cells(results: TemperatureResults) -> list[Spec]:
    cells: list[Spec] = [
        ("model", plain("model")),
        ("scaled", plain("projection")),
        ("factor", lambda row: f"{row['factor']:g}"),
        ("temperature", dec("temperature", 2)),
    ]
    measured = {name.partition("/")[2] for name in results.values}
    if "loss" in measured:
        cells += [("loss", dec("loss", 4)), ("KL", dec("kl", 4))]
    if "entropy_last" in measured:
        cells += [("entropy, last position", dec("entropy_last", 3))]
    for name in results.benchmarks:
        cells += [(f"{name}, right %", dec(f"accuracy_{name}", 1))]
    return cells


def _measured_on(results: TemperatureResults) -> str:
    data, parts = results.data, []
    if data["texts"]:
        parts.append(f"{data['texts']} texts ({data['tokens']} tokens)")
    if data["prompts"]:
        parts.append(f"{data['prompts']} prompts")
    parts += [f"{count} questions of {name}, greedy" for name, count in data["questions"].items()]
    return "; ".join(parts)


def _findings(results: TemperatureResults) -> Iterator[str]:
    unscaled = results.factors.index(1.0)
    for model, (p, projection) in itertools.product(results.models, enumerate(results.projections)):
        parts = []
        loss, kl = results.get(model, "loss"), results.get(model, "kl")
        if loss is not None and kl is not None:
            parts += _loss_findings(results, loss[p], kl[p])
        for name in results.benchmarks:
            accuracy = results.get(model, f"accuracy/{name}")
            if accuracy is not None:
                row = accuracy[p, -1]
                scaled = np.delete(row, unscaled)
                parts.append(
                    f"{name}: {decimal(row[unscaled], 1)} % right unscaled, scaled "
                    f"{ends(scaled.tolist(), lambda x: decimal(x, 1) + ' %')}"
                )
        entropy = results.get(model, "entropy_last")
        if entropy is not None and is_temperature(projection):
            parts += _entropy_findings(results, model, p, entropy[p])
        yield f"{projection} of {model}: {'; '.join(parts)}."


def _loss_findings(results: TemperatureResults, loss: np.ndarray, kl: np.ndarray) -> Iterator[str]:
    """Findings of a projection: all layers scaled, then the most sensitive single layer."""
    unscaled = results.factors.index(1.0)
    best = int(np.argmin(np.where(np.isfinite(loss[-1]), loss[-1], np.inf)))
    minimum = "no factor lowers the loss"
    if best != unscaled:
        factor = results.factors[best]
        minimum = f"the loss is least at factor {factor:g} ({decimal(loss[-1, best])})"
    yield (
        f"with all layers scaled {minimum}; it is {decimal(loss[-1, unscaled])} unscaled and at "
        f"most {decimal(float(np.max(loss[-1])))}"
    )
    worst = np.max(np.where(np.isfinite(kl[:-1]), kl[:-1], np.inf), axis=1)
    if len(worst) > 1 and np.isfinite(worst).all():
        most, least = int(np.argmax(worst)), int(np.argmin(worst))
        yield (
            f"of single layers {results.layers[most]} is the most sensitive (KL up to "
            f"{significant(worst[most])}) and {results.layers[least]} the least (up to "
            f"{significant(worst[least])})"
        )


def _entropy_findings(
    results: TemperatureResults, model: str, p: int, entropy: np.ndarray
) -> Iterator[str]:
    """Whether the entropy of a block falls with its temperature, where q or k are scaled."""
    own = np.array([entropy[r, :, layer] for r, layer in enumerate(results.layers) if layer != ALL])
    if own.size:
        falls = int((np.diff(own, axis=1) < 0).all(axis=1).sum())
        yield (
            f"the entropy of the scaled block falls with every step of the factor in {falls} of "
            f"{len(own)} layers"
        )
    biased = results.get(model, "temperature_last")
    if biased is not None:
        gap = np.abs(biased[p] - entropy)
        if np.isfinite(gap).any():
            exponent = "²" if len(GROUPS[results.projections[p]]) == 2 else ""
            yield (
                f"from a temperature of 1/α{exponent}, biases scaled too, the "
                f"entropy of a block departs by up to {decimal(float(np.nanmax(gap)), 3)} nats"
            )


_TITLE = "Scaled singular values, all layers together"
_TABLE = (
    "Scaling q and k by a factor α is attention at the temperature 1/α² (appendix G.1). KL from "
    "the unscaled model; entropy in nats, mean over blocks and heads. Single layers: in the file."
)
