"""The constructions as edits of a checkpoint, and the command's two entries from Python.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from svdjax.checkpoint import Projection, input_digest
from svdjax.checkpoint.cache import ArrayCache
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.construct.build import ControlSpec, StackBuilder, build_groups
from svdjax.construct.card import model_card
from svdjax.construct.changes import Change, pooled, record
from svdjax.construct.edit import Check, ConstructOutcome, Edit, Edited, joined
from svdjax.construct.initialise import Initialisation
from svdjax.construct.job import ConstructJob, InitialiseJob
from svdjax.construct.tree import factorisation_for
from svdjax.engine import devices, inputs
from svdjax.engine.dry_run import offline
from svdjax.engine.groups import Group
from svdjax.engine.pairs import PairSpec
from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import note
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError
from svdjax.spectra.compute import padded_stack
from svdjax.spectral import get_factorisation, statistics


def run_construct(
    job: ConstructJob | InitialiseJob, *, stop: StopRequest | None = None
) -> ConstructOutcome:
    """Writes (or goes on writing) the checkpoint that `job` asks for.

    Everything is validated before anything is written. What is on disk is journaled group by
    group; the same job started again goes on from there.

    Raises:
        InputError: The checkpoints do not fit, the place cannot be used, or the disk is full.
        Interrupted: SIGTERM or SIGINT; the group in flight was finished and journaled.
    """
    if stop is None:
        with StopRequest() as own:
            return run_construct(job, stop=own)
    start = time.perf_counter()
    return replace(_edit(job, stop).run(), seconds=time.perf_counter() - start)


def dry_run_construct(job: ConstructJob | InitialiseJob, stop: StopRequest) -> str:
    """What `run_construct` would read, hold and write; nothing is fetched."""
    with offline():
        return _edit(job, stop).dry_run()


def _edit(job: ConstructJob | InitialiseJob, stop: StopRequest) -> Edit:
    initialises = isinstance(job, InitialiseJob)
    return Initialisation(job, stop) if initialises else Construction(job, stop)


class Construction(Edit):
    """Matrices of post rebuilt with factors of base, or of another post model.

    Attributes:
        alphas: alpha' by projection, where it enters.
    """

    job: ConstructJob

    def __init__(self, job: ConstructJob, stop: StopRequest):
        # Base is opened and matched also where only the other model enters: a wrong one is a
        # mistake worth hearing of.
        specs = [PairSpec("base", job.base, job.post)]
        specs += [PairSpec("other", job.other, job.post)] * bool(job.other)
        self._pairs = inputs.open_pairs(
            specs, split_fused=False, merge_base=job.base, check=stop.check
        )
        inputs.note_swapped(self._pairs[:1])
        super().__init__(job, self._pairs[-1].plan, stop)
        factorisation = factorisation_for(job.factorisation, job.recipe.polar)
        self._builder = StackBuilder(factorisation, self.mesh)
        self._sigma: dict[str, np.ndarray] = {}
        self._measured = job.recipe.scaled and job.factors.measured
        self.alphas: dict[str, float] = {}
        if job.recipe.scaled and not self._measured:
            self.alphas = job.factors.of([each.name for each in self.whole.projections])

    def identity(self) -> dict[str, Any]:
        job = self.job
        checkpoints = inputs.checkpoints(self._pairs)
        sources = [job.base, job.post, *([job.other] if job.other else [])]
        return {
            "construction": job.construction,
            "alpha": self.alphas or job.factors.source,
            "signs": job.signs,
            "control": [job.control, job.seed] if job.control else None,
            "factorisation": self._builder.factorisation,
            "versions": devices.versions(),
            "inputs": {source: input_digest(checkpoints[source]) for source in sources},
        }

    def prepare(self, rewrite: CheckpointRewrite) -> None:
        """Looks for NaN and Inf, and measures alpha' of eq. 9 over all layers."""
        plan = self.whole if self._measured else self.plan
        inputs.check_values([replace(self._pairs[-1], plan=plan)], check=self.stop.check)
        # Made when nothing can be refused any more, so that a refusal leaves no directory.
        if self.job.factor_cache:
            size = self.job.factor_cache_bytes
            self._builder.cache = ArrayCache(self.job.factor_cache, size, note=note)
        if not self._measured:
            return
        spectra = self._spectra(rewrite)
        for each in self.whole.projections:
            base, post = spectra[each.name]["base"], spectra[each.name]["post"]
            self.alphas[each.name] = self._alpha(each, base, post)
            self._sigma[each.name] = base[each.matrices_of(self.layers)]

    def build(self, rewrite: CheckpointRewrite, groups: Sequence[Group], check: Check) -> Edited:
        job = self.job
        stream = build_groups(
            groups,
            self.plan,
            self._builder,
            job.recipe,
            sigma=self._sigma,
            alphas=self.alphas,
            signs=job.signs,
            dtype=rewrite.dtype,
            check=check,
            base=self._pairs[0].plan.base if job.recipe.partner == "other" else None,
            control=ControlSpec(job.control, job.seed),
        )
        name = "" if job.control else job.construction
        for group, built, seconds in stream:
            records = [record(built, layer, name) for layer in range(len(group.tensors))]
            yield group, np.asarray(built.w), records, seconds
            del built

    def complete(self, rewrite: CheckpointRewrite) -> dict[str, Change]:
        inputs.check_unchanged(self._pairs)
        return {
            each.name: pooled(
                [rewrite.written[name] for name in each.tensors], self.alphas.get(each.name)
            )
            for each in self.plan.projections
        }

    def card(self, changes: Mapping[str, Change]) -> str:
        return model_card(self.job, changes, self.layers)

    def _spectra(self, rewrite: CheckpointRewrite) -> dict[str, dict[str, np.ndarray]]:
        """Singular values of base and post, [L, R] for all layers; kept for a job that goes on."""

        def read(group: Group) -> tuple[np.ndarray, np.ndarray]:
            return padded_stack(self.plan.base, group), padded_stack(self.plan.post, group)

        groups = self.groups(self.whole)
        kept = {group: rewrite.kept(self.part("spectra", group)) for group in groups}
        missing = [group for group in groups if kept[group] is None]
        with self.progress("singular values", groups, missing) as (progress, check):
            for group, stacks in prefetch(missing, read, check):
                began = time.perf_counter()
                base, post = (self._builder.values(w)[: len(group.tensors)] for w in stacks)
                kept[group] = values = {"base": base, "post": post}
                rewrite.keep(self.part("spectra", group), values)
                progress.computed(group, time.perf_counter() - began, group.projection.shape)
        return joined({group: values for group, values in kept.items() if values is not None})

    def _alpha(self, projection: Projection, base: np.ndarray, post: np.ndarray) -> float:
        eps = get_factorisation(self._builder.factorisation).eps
        svsm = statistics.svsm(base, post, projection.shape, eps)
        scaling = statistics.svsm_statistics(svsm)
        alpha = scaling.alpha_prime if self.job.factors.source == "auto" else scaling.alpha_mean
        if not alpha > 0:
            raise InputError(
                f"{self.plan.base.path}: alpha' of {projection.name} is {alpha} (mean scaling "
                f"{scaling.alpha_mean:.4g}); give --alpha=auto_raw or a number"
            )
        return alpha


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
        base: Directory or hub id of the base model.
        post: Directory or hub id of the post-trained model that is edited.
        construction: ``eq9``, ``eq10``, ``eq11``, ``eq12``, ``eq14``, ``eq15`` or ``eq16``.
        out: Directory of the result.
        **options: The other flags of ``python -m svdjax.construct``: other, modules, layers, alpha,
            signs, dtype, overwrite, factorisation, group_bytes, devices, factor_cache,
            factor_cache_bytes, control, seed.

    Returns:
        Where it lies, and the relative change of every projection.

    Raises:
        InputError: Something that was given cannot be used; the message says everything.
    """
    unknown = [name for name in options if name not in ConstructJob.__dataclass_fields__]
    if unknown:
        raise InputError(f"construct_checkpoint: unknown option {', '.join(unknown)}")
    for name in ("alpha", "modules", "layers"):
        if name in options and not isinstance(options[name], str):
            options[name] = str(options[name])
    if "other" in options:
        options["other"] = os.fspath(options["other"])
    return run_construct(
        ConstructJob(
            base=os.fspath(base),
            post=os.fspath(post),
            out=os.fspath(out),
            construction=construction,
            **options,
        )
    )
