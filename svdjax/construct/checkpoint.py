"""A constructed checkpoint, group by group: read, build, write, journal.

Axis legend: `L` layers, `R` = min(in, out).

Peak anonymous host memory, beside what Python and jax take (about 0.4 GB): two groups of
``group_bytes`` as stored, the copy of one that the devices work on and its results; and on CPU
devices a matrix pair in work on each (`groups.matrix_bytes`). It does not depend on the size of
the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import time
from typing import Any

import numpy as np

from svdjax.atomic import read_npz
from svdjax.checkpoint import Projection, input_digest
from svdjax.checkpoint.cache import ArrayCache
from svdjax.checkpoint.mirror import CheckpointRewrite
from svdjax.checkpoint.writer import with_dtype
from svdjax.construct.build import ControlSpec, StackBuilder, build_groups, by_tensor
from svdjax.construct.card import model_card
from svdjax.construct.changes import Change, pooled, record
from svdjax.construct.job import ConstructJob
from svdjax.construct.targets import chosen_layers, chosen_projections
from svdjax.construct.tree import route_for
from svdjax.engine import devices, inputs
from svdjax.engine.groups import Group, plan_groups, total_work, working_bytes
from svdjax.engine.pairs import PairSpec
from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import Progress, note
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError
from svdjax.spectra.compute import padded_stack
from svdjax.spectral import get_factorisation, statistics


@dataclasses.dataclass(frozen=True)
class ConstructOutcome:
    """A finished construction.

    Attributes:
      path: the new checkpoint.
      changes: what was done, by projection.
      computed: matrices built by this run.
      reused: matrices that an interrupted run had left.
      seconds: what this run took.
      was_finished: there was nothing to do.
    """

    path: pathlib.Path
    changes: dict[str, Change]
    computed: int
    reused: int
    seconds: float
    was_finished: bool = False

    def summary(self) -> str:
        """A few lines for stdout."""
        count = f"{self.computed + self.reused} matrices"
        lines = [f"done: {count} in {self.seconds:.1f} s"]
        if self.was_finished:
            lines = [f"nothing to do: already finished: {count}"]
        lines += [
            f"  {name}: {change.layers} matrices, relative change {change.change:.4g}"
            + ("" if math.isnan(change.alpha) else f", alpha' {change.alpha:.6g}")
            + _survived(change)
            for name, change in self.changes.items()
        ]
        return "\n".join([*lines, f"checkpoint: {self.path}"])


def run_construct(job: ConstructJob, *, stop: StopRequest | None = None) -> ConstructOutcome:
    """Writes (or goes on writing) the checkpoint that `job` asks for.

    Everything is validated before anything is written. What is on disk is journaled group by
    group; the same job started again goes on from there.

    Raises:
      InputError: the checkpoints do not fit, the place cannot be used, or the disk is full.
      Interrupted: SIGTERM or SIGINT; the group in flight was finished and journaled.
    """
    if stop is None:
        with StopRequest() as own:
            return run_construct(job, stop=own)
    return _Construct(job, stop).run()


class _Construct:
    """The steps of a construction, with what they share."""

    def __init__(self, job: ConstructJob, stop: StopRequest):
        self.job, self.stop, self.start = job, stop, time.perf_counter()
        route = route_for(job.factorisation, job.recipe.polar)
        self.eps = get_factorisation(route).eps
        # Base is opened and matched also where only the other model enters: a wrong one is a
        # mistake worth hearing of.
        specs = [PairSpec("base", job.base, job.post)]
        specs += [PairSpec("other", job.other, job.post)] * bool(job.other)
        self.pairs = inputs.open_pairs(
            specs, split_fused=False, merge_base=job.base, check=stop.check
        )
        whole = self.pairs[-1].plan
        # All layers of the chosen projections: alpha' is a mean over them all.
        self.whole = dataclasses.replace(
            whole, projections=chosen_projections(whole, job.chosen, job.chosen_layers)
        )
        self.layers = chosen_layers(self.whole, job.chosen_layers)
        self.plan = dataclasses.replace(
            whole,
            projections=tuple(
                dataclasses.replace(one, tensors=tuple(one.tensors[n] for n in self.layers))
                if len(one.tensors) > 1
                else one
                for one in self.whole.projections
            ),
        )
        self.given: dict[str, float] | None = None
        if job.recipe.scaled and not job.factors.measured:
            self.given = job.factors.of([one.name for one in self.whole.projections])
        mesh = devices.layer_mesh(job.devices, working_bytes([self.plan]))
        self.builder = StackBuilder(route, mesh)

    def run(self) -> ConstructOutcome:
        mirror = CheckpointRewrite(
            self.plan.post,
            self.job.out,
            replaced=[name for one in self.plan.projections for name in one.tensors],
            identity=self._identity(),
            dtype=np.dtype(self.job.dtype) if self.job.dtype else None,
            overwrite=self.job.overwrite,
        )
        plan = self.whole if self.job.recipe.scaled and self.given is None else self.plan
        with mirror:
            if mirror.interrupted:
                note(f"{mirror.target} had been put in its place before the interruption")
            if mirror.finished:
                return self._finished(mirror)
            reused = len(mirror.written)
            pair = dataclasses.replace(self.pairs[-1], plan=plan)
            inputs.check_values([pair], check=self.stop.check)
            self.builder.cache = self._cache()
            changes = self._changes(mirror, self._fill(mirror))
            inputs.check_unchanged(self.pairs)
            card = model_card(self.job, changes, self.layers)
            about = {name: dataclasses.asdict(change) for name, change in changes.items()}
            path = mirror.finish(self._config(), card, about)
        computed = sum(change.layers for change in changes.values()) - reused
        return ConstructOutcome(path, changes, computed, reused, time.perf_counter() - self.start)

    def _finished(self, mirror: CheckpointRewrite) -> ConstructOutcome:
        """What the card of an earlier run of the same job says."""
        about = mirror.about if isinstance(mirror.about, dict) else {}
        changes = {}
        for name, kept in about.items():
            with contextlib.suppress(TypeError, AttributeError):
                values: dict[str, Any] = {
                    key: math.nan if value is None else value for key, value in kept.items()
                }
                changes[name] = Change(**values)
        reused = sum(change.layers for change in changes.values())
        seconds = time.perf_counter() - self.start
        return ConstructOutcome(mirror.target, changes, 0, reused, seconds, was_finished=True)

    def _cache(self) -> ArrayCache | None:
        """Made when nothing can be refused any more, so that a refusal leaves no directory."""
        job = self.job
        if not job.factor_cache:
            return None
        return ArrayCache(job.factor_cache, job.factor_cache_bytes, note=note)

    def _identity(self) -> dict[str, Any]:
        """Whatever determines the bytes that are written."""
        job = self.job
        sources = [job.base, job.post, *([job.other] if job.other else [])]
        opened = inputs.checkpoints(self.pairs)
        return {
            "construction": job.construction,
            "alpha": self.given or job.factors.source,
            "signs": job.signs,
            "control": [job.control, job.seed] if job.control else None,
            "factorisation": self.builder.factorisation,
            "versions": devices.versions(),
            "inputs": {source: input_digest(opened[source]) for source in sources},
        }

    def _fill(self, mirror: CheckpointRewrite) -> dict[str, float]:
        """Writes everything that is missing; returns alpha' by projection (eq. 9)."""
        if mirror.written:
            note(f"continuing: {len(mirror.written)} matrices are there already")
        for number, file in enumerate(mirror.copy(), 1):
            note(f"laid out {file} ({number}/{len(self.plan.post.files)})")
            self.stop.check("while the files were laid out")
        alphas, sigma = self.given or {}, {}
        if self.job.recipe.scaled and self.given is None:
            spectra = self._spectra(mirror)
            sigma = {
                name: base[list(self.layers)] if len(base) > 1 else base
                for name, (base, _) in spectra.items()
            }
            alphas = {
                one.name: self._alpha(one, *spectra[one.name]) for one in self.whole.projections
            }
        self._build(mirror, alphas, sigma)
        return alphas

    def _spectra(self, mirror: CheckpointRewrite) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Singular values of base and post, [L, R] for all layers; kept for a job that goes on."""
        groups = self._groups(self.whole)
        progress = Progress(len(groups), total_work(groups), stage="singular values")
        names = [one.name for one in self.whole.projections]
        files = {
            group: f"spectra-{names.index(group.projection.name)}-{group.start}-{group.stop}.npz"
            for group in groups
        }
        found = {group: _kept_spectra(mirror.folder / file) for group, file in files.items()}
        missing = [group for group in groups if found[group] is None]
        try:
            for group in groups:
                if group not in missing:
                    progress.reused(group)
            for group, stacks in prefetch(missing, self._read, self._check(progress)):
                began = time.perf_counter()
                base, post = (self.builder.values(stack) for stack in stacks)
                count = group.stop - group.start
                found[group] = base[:count], post[:count]
                mirror.keep(files[group], {"base": base[:count], "post": post[:count]})
                progress.computed(group, time.perf_counter() - began)
        finally:
            progress.close()
        spectra = {}
        for name in names:
            parts = [found[group] for group in groups if group.projection.name == name]
            base, post = (np.concatenate(side) for side in zip(*filter(None, parts), strict=True))
            spectra[name] = base, post
        return spectra

    def _alpha(self, projection: Projection, base: np.ndarray, post: np.ndarray) -> float:
        svsm = statistics.svsm(base, post, projection.shape, self.eps)
        found = statistics.svsm_statistics(svsm)
        alpha = found.alpha_prime if self.job.factors.source == "auto" else found.alpha_mean
        if not alpha > 0:
            raise InputError(
                f"{self.plan.base.path}: alpha' of {projection.name} is {alpha} (mean scaling "
                f"{found.alpha_mean:.4g}); give --alpha=auto_raw or a number"
            )
        return alpha

    def _build(
        self, mirror: CheckpointRewrite, alphas: dict[str, float], sigma: dict[str, np.ndarray]
    ) -> None:
        groups = self._groups(self.plan)
        tensors = {group: group.projection.tensors[group.start : group.stop] for group in groups}
        missing = [g for g in groups if not all(name in mirror.written for name in tensors[g])]
        progress = Progress(len(groups), total_work(groups), stage=self.job.construction)
        try:
            for group in groups:
                if group not in missing:
                    progress.reused(group)
            stream = build_groups(
                missing,
                self.plan,
                self.builder,
                self.job.recipe,
                sigma=sigma,
                alphas=alphas,
                signs=self.job.signs,
                dtype=mirror.dtype,
                check=self._check(progress),
                base=self.pairs[0].plan.base if self.job.recipe.partner == "other" else None,
                control=ControlSpec(self.job.control, self.job.seed) if self.job.control else None,
                numbers=self.layers,
            )
            about = "" if self.job.control else self.job.construction
            for group, built, seconds in stream:
                values = by_tensor(group, built)
                records = {name: record(built, layer, about) for layer, name in enumerate(values)}
                mirror.write(values, records)
                progress.computed(group, seconds)
                del built, values
        finally:
            progress.close()

    def _groups(self, plan: Any) -> list[Group]:
        return plan_groups(
            self.job.construction,
            plan,
            group_bytes=self.job.group_bytes,
            devices=self.builder.mesh.size,
        )

    def _read(self, group: Group) -> tuple[np.ndarray, np.ndarray]:
        """Both sides of a group [L, I, O] as stored."""
        return padded_stack(self.plan.base, group), padded_stack(self.plan.post, group)

    def _check(self, progress: Progress) -> Any:
        return lambda: self.stop.check(f"{progress.count} of {progress.groups} groups done")

    def _changes(self, mirror: CheckpointRewrite, alphas: dict[str, float]) -> dict[str, Change]:
        return {
            one.name: pooled([mirror.written[name] for name in one.tensors], alphas.get(one.name))
            for one in self.plan.projections
        }

    def _config(self) -> dict[str, Any]:
        """config.json of the result: that of post, its dtype renamed, without pointers to code."""
        config = {k: v for k, v in self.plan.post.config.items() if k != "auto_map"}
        return with_dtype(config, self.job.dtype) if self.job.dtype else config


def _survived(change: Change) -> str:
    """What is left of the change of post-training, and what would be of a small random one."""
    if math.isnan(change.surviving):
        return ""
    text = f", surviving share of Delta {change.surviving:.4g}"
    if math.isnan(change.surviving_predicted):
        return text
    return f"{text} (of a small random one {change.surviving_predicted:.4g})"


def _kept_spectra(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        kept = read_npz(path)
        return kept["base"], kept["post"]
    except (OSError, ValueError, KeyError):
        return None


def construct_checkpoint(
    base: str | os.PathLike[str],
    post: str | os.PathLike[str],
    construction: str,
    out: str | os.PathLike[str],
    **options: Any,
) -> ConstructOutcome:
    """Writes a constructed checkpoint, as ``python -m svdjax.construct`` does.

    Example:
      >>> import svdjax
      >>> svdjax.construct_checkpoint("base", "post", "eq11", "out", modules="self_attn")

    Args:
      base: directory or hub id of the base model.
      post: likewise of the post-trained model that is edited.
      construction: ``eq9``, ``eq10``, ``eq11``, ``eq12``, ``eq14``, ``eq15`` or ``eq16``.
      out: directory of the result.
      **options: the other flags of ``python -m svdjax.construct``: other, modules, layers, alpha,
        signs, dtype, overwrite, factorisation, group_bytes, devices, factor_cache,
        factor_cache_bytes, control, seed.

    Returns:
      Where it lies, and the relative change of every projection.

    Raises:
      InputError: something that was given cannot be used; the message says everything.
    """
    unknown = [name for name in options if name not in ConstructJob.__dataclass_fields__]
    if unknown:
        raise InputError(f"construct_checkpoint: unknown option {', '.join(unknown)}")
    for name in ("alpha", "modules", "layers"):
        if name in options and not isinstance(options[name], str):
            options[name] = str(options[name])
    if "other" in options:
        options["other"] = os.fspath(options["other"])
    job = ConstructJob(
        base=os.fspath(base),
        post=os.fspath(post),
        out=os.fspath(out),
        construction=construction,
        **options,
    )
    return run_construct(job)
