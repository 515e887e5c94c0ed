"""A dry run: what a sweep would read, hold and take, without touching the disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from svdjax.checkpoint import resolve
from svdjax.engine import devices
from svdjax.engine.cost import COMPILE_SECONDS, LOAD_SECONDS, matrix_bytes, measure_rates
from svdjax.engine.dry_run import offline
from svdjax.engine.groups import Group, padding_share
from svdjax.engine.inputs import note_swapped
from svdjax.engine.pairs import PairSpec
from svdjax.engine.progress import duration, size
from svdjax.errors import InputError
from svdjax.spectral import get_factorisation
from svdjax.sweep.config import read_config
from svdjax.sweep.plan import SweepPlan, plan_sweep

_SIZES = (64, 256, 1024)  # of the eigenproblems that are measured
_PRODUCT = 1024
_WIDTHS = (18, 12, 7, 8, 10, 12, 12, 12)
_HEAD = ("projection", "in x out", "layers", "groups", "read", "host", "device", "time")


def dry_run(config: Any) -> str:
    """Returns a table of shapes, memory and predicted time of the sweep of `config`.

    Opens the checkpoints' headers only, and downloads nothing: hub ids must be in the hub's cache,
    or streamed; then their headers, and what is small, are fetched.
    Time is predicted from rates that are measured on this machine: of a product, of some symmetric
    eigenproblems, of drawing a figure (docs/scale.md).

    Raises:
        InputError: What the sweep itself would refuse before computing.
    """
    sweep = read_config(config)
    get_factorisation(sweep.settings.factorisation)
    with contextlib.nullcontext() if sweep.settings.stream else offline():
        if not sweep.settings.stream:
            _need_local(sweep.pairs)
        start = time.perf_counter()
        plan = plan_sweep(sweep)
    note_swapped(plan.jobs)
    return _table(plan, time.perf_counter() - start)


def _table(plan: SweepPlan, planning: float) -> str:
    sweep, spectra, count = plan.sweep, plan.spectra, plan.mesh.size
    largest = max(min(group.projection.shape) for group in spectra.groups)
    sizes = [size for size in _SIZES if size < 2 * largest or size == _SIZES[0]]
    rates = measure_rates(sizes, _PRODUCT, turns=2)
    together = rates.together(count)
    lines = [f"dry run of {sweep.name}: nothing is written", ""]
    for job in plan.jobs:
        lines += [f"{job.spec.name}: {job.spec.base} -> {job.spec.post} ({job.plan.family})"]
        lines += job.plan.notes
        lines.append(_row(_HEAD))
        by_projection: dict[str, list[Group]] = {}
        for group in spectra.of_pair(job.spec.name):
            by_projection.setdefault(group.projection.name, []).append(group)
        for projection in job.plan.projections:
            groups = by_projection[projection.name]
            lines.append(
                _row(
                    (
                        projection.name,
                        f"{projection.shape[0]}x{projection.shape[1]}",
                        "x".join(
                            str(len(numbers))
                            for numbers in (projection.layers, projection.experts)
                            if numbers
                        ),
                        str(len(groups)),
                        size(sum(group.read for group in groups)),
                        size(2 * groups[0].bytes),
                        size(_device_bytes(groups[0], count)),
                        duration(spectra.seconds(groups, together)),
                    )
                )
            )
        for stage in plan.stages:
            lines += stage.forecast_pair(job, sweep.settings)
        lines.append("")
    draws = "report" in sweep.settings.stages and sweep.settings.report.figures != "none"
    forecasts = plan.forecasts(rates, _figure_seconds() if draws else 0.0)
    times = {
        name: forecast.seconds + LOAD_SECONDS * rates.host * forecast.programs
        for name, forecast in forecasts.items()
    }
    times["start"] += planning
    programs = sum(forecast.programs for forecast in forecasts.values())
    compiling = COMPILE_SECONDS * rates.host * programs
    lines += [
        f"devices: {', '.join(devices.describe(plan.mesh))}",
        f"{len(spectra.groups)} groups read {size(sum(group.read for group in spectra.groups))}, "
        "shared matrices once; at most "
        f"{size(max(2 * group.bytes for group in spectra.groups))} of stacks on the host (two "
        f"groups) and {size(max(_device_bytes(group, count) for group in spectra.groups))} on each "
        "device",
    ]
    if (padding := padding_share(spectra.groups)) > 0:
        multiple = f", a multiple of the {count} devices" if count > 1 else ""
        lines.append(
            f"{padding:.1%} of the computing fills groups up: all of a projection have one length"
            f"{multiple}"
        )
    lines += [
        f"predicted time: {duration(sum(times.values()))} at {rates.products / 1e9:.1f} Gflop/s "
        f"per device ({sweep.settings.factorisation}), and about {duration(compiling)} more to "
        f"compile {programs} programs the first time",
        "of that " + ", ".join(f"{name} {duration(seconds)}" for name, seconds in times.items()),
    ]
    for forecast in forecasts.values():
        lines += forecast.lines
    return "\n".join(lines)


def _figure_seconds() -> float:
    """Seconds of drawing two rows of four small heatmaps, as most figures of a pair are."""
    from matplotlib.figure import Figure

    from svdjax.report import style

    best = np.inf
    for _ in range(2):
        start = time.perf_counter()
        with style.drawing():
            figure = Figure(figsize=(10, 5))
            for axes in figure.subplots(2, 4).flat:
                figure.colorbar(axes.imshow(np.eye(25)), ax=axes)
            style.png(figure)
        best = min(best, time.perf_counter() - start)
    return best


def _need_local(pairs: Sequence[PairSpec]) -> None:
    """Raises `InputError` naming the hub ids that would have to be downloaded first."""
    absent = []
    for source in dict.fromkeys(
        side for pair in pairs for side in (pair.base, pair.post, pair.other) if side
    ):
        try:
            resolve(source)
        except InputError:
            absent.append(source)
    if absent:
        raise InputError(
            f"{', '.join(absent)}: neither a directory nor in the Hugging Face hub's cache, and a "
            "dry run downloads nothing; fetch hub ids with `hf download ID` first, or give --stream"
        )


def _device_bytes(group: Group, device_count: int) -> int:
    """Stacks of two groups as stored, and one matrix pair in work."""
    return 2 * group.bytes // device_count + matrix_bytes(group.projection.shape)


def _row(cells: Sequence[str]) -> str:
    first, *rest = (cell.rjust(width) for cell, width in zip(cells, _WIDTHS))
    return "  " + " ".join([cells[0].ljust(len(first)), *rest])
