"""The part of a pair's report that tells what scaled singular values did, layer by layer."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report import page, style
from svdjax.report.cells import Spec, dec, plain, view
from svdjax.report.numbers import decimal, ends, significant
from svdjax.report.page import Picture
from svdjax.report.section import Section
from svdjax.report.table import Table
from svdjax.temperature import figures
from svdjax.temperature.options import ALL, GROUPS, temperature

if TYPE_CHECKING:
    from svdjax.temperature.results import TemperatureResults

_SCALARS = ("loss", "kl", "agreement")
_BLOCKS = ("entropy_last", "entropy_mean", "temperature_last", "temperature_mean")
_ANSWERS = ("accuracy", "tokens", "stopped")


def temperature_section(results: TemperatureResults, folder: pathlib.Path) -> Section:
    """Writes table and figures of a pair's scaled models; returns what its page shows.

    Args:
        results: Of the temperature stage.
        folder: The pair's.
    """
    table = temperature_table(results)
    table.write(folder / "tables")
    with style.drawing():
        figures = list(_figures(results, folder / "figures"))
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
            *(f"Scaled models, no {what}: {why}." for what, why in results.left_out.items()),
        ],
        tables=[view(together, _TITLE, _TABLE, _cells(results), text={"model", "scaled"})],
        figures=figures,
        files=[table.name],
    )


def index_temperature(results: Mapping[str, TemperatureResults]) -> Section | None:
    """A line for every pair on the index of a sweep; None where nothing was scaled."""
    if not results:
        return None
    return Section("", [(name, temperature_line(one)) for name, one in results.items()])


def temperature_line(results: TemperatureResults) -> str:
    """What an index says of a pair: what scaling all layers does to the first model's loss."""
    model, one = results.models[0], results.factors.index(1.0)
    loss, kl = results.get(model, "loss"), results.get(model, "kl")
    if loss is None or kl is None:
        return (
            f"{', '.join(results.projections)} of {' and '.join(results.models)} were scaled; no "
            "loss was measured."
        )
    return " ".join(
        f"{projection} of {model}: {next(iter(_of_loss(results, loss[p], kl[p], one)))}."
        for p, projection in enumerate(results.projections)
    )


def temperature_table(results: TemperatureResults) -> Table:
    """Returns a row per model, projection, layer and factor; NaN where it was not measured.

    Entropies are means over the blocks; ``own`` is that of the scaled layer's block.
    """
    answers = [f"{kind}_{name}" for name in results.benchmarks for kind in _ANSWERS]
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
    one = results.factors.index(1.0)
    for model in results.models:
        for p, projection in enumerate(results.projections):
            for r, layer in enumerate(results.layers):
                for f, factor in enumerate(results.factors):

                    def at(name: str, model: str = model, place: Any = (p, r, f)) -> Any:
                        array = results.get(model, name)
                        return math.nan if array is None else array[place]

                    row: dict[str, Any] = {
                        "model": model,
                        "projection": projection,
                        "layer": "all" if layer == ALL else layer,
                        "factor": factor,
                        "temperature": temperature(GROUPS[projection], factor),
                    }
                    row |= {name: float(at(name)) for name in _SCALARS}
                    row["loss_change"] = row["loss"] - float(at("loss", place=(p, r, one)))
                    row |= {name: float(np.mean(at(name))) for name in _BLOCKS}
                    last = at("entropy_last")
                    own = math.nan if layer == ALL or np.ndim(last) == 0 else float(last[layer])
                    row["entropy_last_own"] = own
                    for benchmark in results.benchmarks:
                        for kind in _ANSWERS:
                            row[f"{kind}_{benchmark}"] = float(at(f"{kind}/{benchmark}"))
                    yield row


def _cells(results: TemperatureResults) -> list[Spec]:
    cells: list[Spec] = [
        ("model", plain("model")),
        ("scaled", plain("projection")),
        ("factor", lambda row: f"{row['factor']:g}"),
        ("temperature", dec("temperature", 2)),
    ]
    if _has(results, "loss"):
        cells += [("loss", dec("loss", 4)), ("KL", dec("kl", 4))]
    if _has(results, "entropy_last"):
        cells += [("entropy, last position", dec("entropy_last", 3))]
    for name in results.benchmarks:
        cells += [(f"{name}, right %", dec(f"accuracy_{name}", 1))]
    return cells


def _has(results: TemperatureResults, name: str) -> bool:
    return any(results.get(model, name) is not None for model in results.models)


def _measured_on(results: TemperatureResults) -> str:
    data, parts = results.data, []
    if data["texts"]:
        parts.append(f"{data['texts']} texts ({data['tokens']} tokens)")
    if data["prompts"]:
        parts.append(f"{data['prompts']} prompts")
    parts += [f"{count} questions of {name}, greedy" for name, count in data["questions"].items()]
    return "; ".join(parts)


def _findings(results: TemperatureResults) -> Iterator[str]:
    one = results.factors.index(1.0)
    for model in results.models:
        for p, projection in enumerate(results.projections):
            what = f"{projection} of {model}"
            parts = []
            loss, kl = results.get(model, "loss"), results.get(model, "kl")
            if loss is not None and kl is not None:
                parts += _of_loss(results, loss[p], kl[p], one)
            accuracy = [
                (name, results.get(model, f"accuracy/{name}")) for name in results.benchmarks
            ]
            for name, array in accuracy:
                if array is not None:
                    row = array[p, -1]
                    others = np.delete(row, one)
                    parts.append(
                        f"{name}: {decimal(row[one], 1)} % right unscaled, scaled "
                        f"{ends(others.tolist(), lambda x: decimal(x, 1) + ' %')}"
                    )
            entropy = results.get(model, "entropy_last")
            if entropy is not None:
                parts += _of_entropy(results, model, p, entropy[p])
            yield f"{what}: {'; '.join(parts)}."


def _of_loss(
    results: TemperatureResults, loss: np.ndarray, kl: np.ndarray, one: int
) -> Iterator[str]:
    """Of one projection: where all layers are scaled, and which single layer matters most."""
    row = np.where(np.isfinite(loss[-1]), loss[-1], np.inf)
    best = int(np.argmin(row))
    if best == one:
        what = "no factor lowers the loss"
    else:
        what = f"the loss is least at factor {results.factors[best]:g} ({decimal(loss[-1, best])})"
    yield (
        f"with all layers scaled {what}; it is {decimal(loss[-1, one])} unscaled and at most "
        f"{decimal(float(np.max(loss[-1])))}"
    )
    worst = np.max(np.where(np.isfinite(kl[:-1]), kl[:-1], np.inf), axis=1)
    if len(worst) > 1 and np.isfinite(worst).all():
        most, least_layer = int(np.argmax(worst)), int(np.argmin(worst))
        yield (
            f"of single layers {results.layers[most]} is the most sensitive (KL up to "
            f"{significant(worst[most])}) and {results.layers[least_layer]} the least (up to "
            f"{significant(worst[least_layer])})"
        )


def _of_entropy(
    results: TemperatureResults, model: str, p: int, entropy: np.ndarray
) -> Iterator[str]:
    """Of q and k: whether the entropy of a scaled block falls as its temperature does."""
    names = GROUPS[results.projections[p]]
    if not set(names) <= {"q_proj", "k_proj"}:
        return
    own = np.array([entropy[r, :, layer] for r, layer in enumerate(results.layers) if layer != ALL])
    if own.size:
        falls = int((np.diff(own, axis=1) < 0).all(axis=1).sum())
        yield (
            f"the entropy of the scaled block falls with every step of the factor in {falls} of "
            f"{len(own)} layers"
        )
    hot = results.get(model, "temperature_last")
    if hot is not None:
        gap = np.abs(hot[p] - entropy)
        if np.isfinite(gap).any():
            yield (
                f"from a temperature of 1/α{'²' * (len(names) == 2)}, biases scaled too, the "
                f"entropy of a block departs by up to {decimal(float(np.nanmax(gap)), 3)} nats"
            )


def _figures(results: TemperatureResults, folder: pathlib.Path) -> Iterator[Picture]:
    for model in results.models:
        beside = "" if model == "post" else f" of {model}"
        maps = figures.changes(results, model)
        if maps and len(results.layers) > 1:
            title = f"Scaled singular values{beside}, layer by layer"
            figure = figures.heatmaps(results, maps)
            yield page.place(figure, folder, f"temperature_{model}", title, _MAPS, f"{title}.")
        title = f"Scaled singular values{beside}, all layers together"
        figure = figures.curves(results, model)
        yield page.place(figure, folder, f"temperature_all_{model}", title, _CURVES, f"{title}.")


_TITLE = "Scaled singular values, all layers together"
_TABLE = (
    "Scaling q and k by a factor α is attention at the temperature 1/α² (appendix G.1). KL from "
    "the unscaled model; entropy in nats, mean over blocks and heads. Single layers: in the file."
)
_MAPS = (
    "What changed from the unscaled model where one layer (row) is scaled by a factor (column): "
    "the loss, and the attention entropy of the last position, mean over blocks and heads. White: "
    "nothing; one colour scale for all panels of a measure."
)
_CURVES = (
    "One line per projection; dashed: the unscaled model. Open markers beside the entropy, where "
    "there are any: queries and keys with their biases at that temperature."
)
