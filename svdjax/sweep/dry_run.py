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
from svdjax.construct.controls import controls_of
from svdjax.construct.heldout import read_heldout
from svdjax.engine import devices, inputs
from svdjax.engine.groups import Group, matrix_bytes, matrix_work, total_work, working_bytes
from svdjax.engine.pairs import PairSpec
from svdjax.engine.progress import duration
from svdjax.errors import InputError
from svdjax.evaluate.inputs import EvalInputs, read_inputs
from svdjax.nulls.stage import null_work
from svdjax.spectra.stage import plan_spectra
from svdjax.spectral import analyse_stack, get_factorisation, working_precision
from svdjax.spectral.null_draws import KINDS
from svdjax.sweep.config import Settings, read_config
from svdjax.temperature.plan import Plan, read_plans

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
        heldout = read_heldout(jobs, settings.text_limit)
        material = read_inputs(jobs, settings) if settings.runs_models else None
        plans = {}
        if "temperature" in settings.stages:
            plans = read_plans(jobs, settings, heldout, material)
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
                        _size(bytes_read),
                        _size(host),
                        _size(device),
                        duration(took),
                    )
                )
            )
            seconds, read = seconds + took, read + bytes_read
            most_host, most_device = max(most_host, host), max(most_device, device)
        if job.spec.constructed:
            lines.append(_constructions(job, settings))
        lines.append("")
    lines += [
        f"devices: {', '.join(devices.describe(mesh))}",
        f"{len(plan)} groups read {_size(read)}, shared matrices once; at most "
        f"{_size(most_host)} of stacks on the host (two groups) and {_size(most_device)} on each "
        "device",
        f"predicted time: {duration(seconds)} at {rate / 1e9:.1f} Gflop/s per device "
        f"({settings.factorisation}), and a few seconds to compile each shape",
    ]
    if "nulls" in settings.stages:
        lines.append(_nulls(jobs, settings, rate * mesh.size))
    if any(job.spec.constructed for job in jobs):
        lines.append("constructions come on top: about as long again, and the decoder's time")
    if material is not None:
        lines += _asked(material, jobs, settings)
    lines += [f"temperature: {name}, {_tempered(one, settings)}" for name, one in plans.items()]
    return "\n".join(lines)


def _constructions(job: inputs.PairJob, settings: Settings) -> str:
    """What the constructions stage of a pair makes and takes."""
    factors = sum(
        len(one.tensors) * min(one.shape) * (sum(one.shape) + 1) for one in job.plan.projections
    )
    chosen = settings.chosen_variants
    count = sum(one.recipe.partner != "other" or job.other is not None for one in chosen)
    kinds = settings.constructions.controls
    made = [one for one in chosen if one.recipe.partner != "other" or job.other is not None]
    controls = len({one.name for variant in made for one in controls_of(variant, kinds)})
    post = job.plan.post
    specs = [post.spec(name) for name in post.names]
    model = sum(int(np.prod(spec.shape)) * spec.dtype.itemsize for spec in specs)
    parameters = sum(int(np.prod(spec.shape)) for spec in specs)
    text = (
        f"  constructions: {count} models and {controls} controls; singular vectors take "
        f"{_size(8 * factors * len(job.sources))} of disk, at most "
        f"{_size(settings.factor_cache_bytes)} are kept"
    )
    if job.spec.text:
        # Post as read, the variant's matrices, and both models in float32.
        text += f"; judging them takes {_size(2 * model + 8 * parameters)} of memory"
    if settings.save_variants:
        text += f"; saving them {_size(count * model)} of disk"
    return text


def _tempered(plan: Plan, settings: Settings) -> str:
    """What the temperature stage measures of a pair."""
    how = settings.temperature
    points = list(plan.grid.points())
    asked = sum(map(len, plan.questions.values())) * sum(plan.asks(one, how) for one in points)
    texts = 0 if plan.rows is None else len(plan.rows.tokens)
    return (
        f"{len(how.models)} model(s) at {len(points)} points: {texts} texts and {plan.prompts} "
        f"prompts at each, {asked} answers in all"
    )


def _nulls(jobs: Sequence[inputs.PairJob], settings: Settings, rate: float) -> str:
    """What the nulls stage draws, and how long that takes on top."""
    how = settings.nulls
    shapes = [
        (one.shape, min(how.layers or len(one.tensors), len(one.tensors)))
        for job in jobs
        for one in job.plan.projections
    ]
    matrices = sum(count for _, count in shapes) if how.draws else 0
    work = sum(count * null_work(shape, how.draws) for shape, count in shapes)
    took = duration(work / rate if how.draws else 0.0)
    draws = len(KINDS) * how.draws * matrices
    return (
        f"nulls: at most {draws} draws for {matrices} matrices come on top, predicted time {took}"
    )


def _asked(material: EvalInputs, jobs: Sequence[inputs.PairJob], settings: Settings) -> list[str]:
    """What the stages that run models will ask of how many."""
    variants = len(settings.chosen_variants)
    options = settings.constructions
    controls = len(
        {
            one.name
            for variant in settings.chosen_variants
            if variant.recipe.kind in options.asked
            for one in controls_of(variant, options.controls)
        }
    )
    count = sum(job.spec.constructed for job in jobs)
    built, beside = variants * count, f" with {controls * count} controls" * bool(controls * count)
    originals = {source for job in jobs for source in (job.spec.base, job.spec.post)}
    models = f"{len(originals)} models and at most {built} constructed ones"
    lines = []
    if "probes" in settings.stages:
        lines.append(f"probes: {models} read {len(material.prompts)} prompts")
    if "evaluation" in settings.stages:
        how = settings.evaluation
        asked = how.rounds * sum(map(len, material.questions.values()))
        lines.append(
            f"evaluation: {models}{beside} give {asked} answers each "
            f"({', '.join(material.questions)}), of up to {how.max_new_tokens} tokens"
        )
    return lines


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


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} TiB"
