"""A dry run: what a sweep would read, hold and take, without touching the disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint import resolve
from svdjax.engine import devices, inputs
from svdjax.engine.groups import Group, matrix_bytes, matrix_work, total_work, working_bytes
from svdjax.engine.pairs import PairSpec
from svdjax.engine.progress import duration, size
from svdjax.engine.stages import SharedInputs
from svdjax.errors import InputError
from svdjax.spectra.stage import plan_spectra
from svdjax.spectral import analyse_stack, get_factorisation, working_precision
from svdjax.sweep.config import Settings, read_config
from svdjax.sweep.stages import stages_of

_PROBE = 512
_WIDTHS = (18, 12, 7, 8, 10, 12, 12, 12)
_HEAD = ("projection", "in x out", "layers", "groups", "read", "host", "device", "time")


def dry_run(config: Any) -> str:
    """Returns a table of shapes, memory and predicted time of the sweep of `config`.

    Opens the checkpoints' headers only, and downloads nothing: hub ids must be in the hub's cache.
    Time is predicted from the rate measured on this machine with one small matrix, and so within
    a factor of about two.

    Raises:
      InputError: what the sweep itself would refuse before computing.
    """
    sweep = read_config(config)
    settings = sweep.settings
    get_factorisation(settings.factorisation)
    with _offline():
        _need_local(sweep.pairs)
        jobs = inputs.open_pairs(sweep.pairs, split_fused=settings.split_fused)
        shared, stages = SharedInputs(jobs, settings), stages_of(settings.stages)
        prepared = {stage.name: stage.prepare(shared) for stage in stages}
    mesh = devices.layer_mesh(settings.devices, working_bytes(job.plan for job in jobs))
    rate = _rate(settings)
    lines = [f"dry run of {sweep.name}: nothing is written", ""]
    plan = plan_spectra(jobs, settings, mesh.size)
    seconds, most_host, most_device, read = 0.0, 0, 0, 0
    for job in jobs:
        lines += [f"{job.spec.name}: {job.spec.base} -> {job.spec.post} ({job.plan.family})"]
        lines += job.plan.notes
        lines.append(_row(_HEAD))
        for projection in job.plan.projections:
            mine = [g for g in plan if g.pair == job.spec.name and g.projection is projection]
            took = total_work(mine) / rate / mesh.size
            host, device = 2 * mine[0].bytes, _device_bytes(mine[0], mesh.size)
            bytes_read = sum(group.read for group in mine)
            lines.append(
                _row(
                    (
                        projection.name,
                        f"{projection.shape[0]}x{projection.shape[1]}",
                        str(len(projection.tensors)),
                        str(len(mine)),
                        size(bytes_read),
                        size(host),
                        size(device),
                        duration(took),
                    )
                )
            )
            seconds, read = seconds + took, read + bytes_read
            most_host, most_device = max(most_host, host), max(most_device, device)
        for stage in stages:
            lines += stage.forecast_pair(job, settings)
        lines.append("")
    lines += [
        f"devices: {', '.join(devices.describe(mesh))}",
        f"{len(plan)} groups read {size(read)}, shared matrices once; at most "
        f"{size(most_host)} of stacks on the host (two groups) and {size(most_device)} on each "
        "device",
        f"predicted time: {duration(seconds)} at {rate / 1e9:.1f} Gflop/s per device "
        f"({settings.factorisation}), and a few seconds to compile each shape",
    ]
    for stage in stages:
        lines += stage.forecast(shared, prepared[stage.name], rate * mesh.size)
    return "\n".join(lines)


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
            "dry run downloads nothing; fetch hub ids with `hf download ID` first"
        )


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keeps huggingface_hub, which reads this when it is imported, from downloading."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _rate(settings: Settings) -> float:
    """Measured floating point operations a second of one device, in units of `matrix_work`."""
    mesh = devices.layer_mesh(1)
    generator = np.random.default_rng(0)
    pair = generator.standard_normal((2, 1, _PROBE, _PROBE)).astype(np.float32)
    best = np.inf
    for _ in range(2):
        start = time.perf_counter()
        with working_precision(settings.factorisation):
            metrics = analyse_stack(
                pair[0],
                pair[1],
                factorisation=settings.factorisation,
                corner=settings.corner,
                measure=settings.measure,
                mesh=mesh,
            )
            jax.block_until_ready(metrics)
        best = min(best, time.perf_counter() - start)
    return matrix_work((_PROBE, _PROBE)) / best


def _device_bytes(group: Group, device_count: int) -> int:
    """Stacks of two groups as stored, and one matrix pair in work."""
    return 2 * group.bytes // device_count + matrix_bytes(group.projection.shape)


def _row(cells: Sequence[str]) -> str:
    first, *rest = (cell.rjust(width) for cell, width in zip(cells, _WIDTHS))
    return "  " + " ".join([cells[0].ljust(len(first)), *rest])
