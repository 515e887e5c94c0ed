"""The initialisations of appendix F as edits of a checkpoint: matrices split, or scaled.

Axis legend: `L` layers, `I` in, `O` out, `K` rank of what is taken out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint import input_digest, model_config, open_checkpoint, plan_pair
from svdjax.checkpoint.adapter import save_adapter
from svdjax.checkpoint.hub import Streaming
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.construct.card import initialisation_card
from svdjax.construct.changes import Change
from svdjax.construct.edit import Check, Edit, Edited, joined
from svdjax.construct.job import InitialiseJob, factor_names
from svdjax.construct.low_rank import factors_of
from svdjax.engine import devices
from svdjax.engine.groups import Group
from svdjax.engine.prefetch import prefetch
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError
from svdjax.spectra.compute import padded_stack
from svdjax.spectral import working_precision
from svdjax.spectral.components import split_stack, start_of

_FACTORISATION = "svd_f64"


class Initialisation(Edit):
    """LoRA's components taken out of base's matrices, or these scaled.

    Attributes:
        starts: Number of the first component that is taken out, by projection.
        factors: What each layer of the model is scaled by, [L], by projection.
    """

    job: InitialiseJob

    def __init__(self, job: InitialiseJob, stop: StopRequest):
        base = open_checkpoint(job.base, streaming=Streaming.of(job, check=stop.check))
        plan = plan_pair(base, base)
        if job.lora and plan.family == "unknown":
            raise InputError(
                f"{base.path}: model_type {base.config.get('model_type')!r} has no name table, so "
                "an adapter cannot name its layers; scaled works"
            )
        super().__init__(job, plan, stop)
        experts = [each.name for each in self.whole.projections if each.experts]
        if job.lora and experts:
            raise InputError(
                f"--modules={job.modules or 'all'}: chooses {', '.join(experts)}, and PEFT's LoRA "
                "has no layer for an expert's matrix; choose others, such as self_attn"
            )
        self.starts = {
            each.name: start_of(job.components, job.rank, min(each.shape), each.name)
            for each in self.whole.projections
            if job.lora
        }
        self.factors = {
            each.name: factors_of(job.factors, each.name, len(each.tensors))
            for each in self.whole.projections
            if not job.lora
        }
        unknown = [name for name in factor_names(job.factors) if name not in self.factors]
        if unknown:
            raise InputError(
                f"--factor={job.factor}: {', '.join(unknown[:8])} is not among the chosen "
                f"{', '.join(self.factors)}"
            )

    def identity(self) -> dict[str, Any]:
        return {
            "construction": self.job.construction,
            "start": self.starts,
            "rank": self.job.rank,
            "factors": self.factors,
            "versions": devices.versions(),
            "input": input_digest(self.plan.post),
        }

    def is_done(self, rewrite: CheckpointRewrite, group: Group) -> bool:
        kept = not self.job.lora or rewrite.kept(self.part("lora", group))
        return bool(kept) and super().is_done(rewrite, group)

    def build(self, rewrite: CheckpointRewrite, groups: Sequence[Group], check: Check) -> Edited:
        for group, w in prefetch(groups, lambda group: padded_stack(self.plan.post, group), check):
            began = time.perf_counter()
            new = self._split(rewrite, group, w) if self.job.lora else self._scaled(group, w)
            yield group, new, [{}] * len(group.tensors), time.perf_counter() - began

    def complete(self, rewrite: CheckpointRewrite) -> dict[str, Change]:
        """Joins LoRA's factors into a PEFT adapter inside the result."""
        if self.job.lora:
            groups = self.groups(self.plan)
            parts = joined(
                {group: rewrite.kept(self.part("lora", group)) or {} for group in groups}
            )
            save_adapter(
                rewrite.data / "adapter",
                {
                    each.path: (parts[each.name]["a"], parts[each.name]["b"])
                    for each in self.plan.projections
                },
                model_config(self.plan.post),
                layers=self.layers,
                base_model=str(rewrite.target),
                overwrite=True,
            )
        return {}

    def card(self, changes: Mapping[str, Change]) -> str:
        names = [each.name for each in self.plan.projections]
        return initialisation_card(self.job, names, self.layers, self.starts)

    def _split(self, rewrite: CheckpointRewrite, group: Group, w: np.ndarray) -> np.ndarray:
        """Residuals [L, I, O]; A [L, I, K] and B [L, K, O] are kept until all of them are there."""
        with working_precision(_FACTORISATION):
            split = jax.device_get(
                split_stack(
                    w,
                    start=self.starts[group.projection.name],
                    rank=self.job.rank,
                    factorisation=_FACTORISATION,
                    mesh=self.mesh,
                )
            )
        count = len(group.tensors)
        rewrite.keep(self.part("lora", group), {"a": split.a[:count], "b": split.b[:count]})
        return split.residual

    def _scaled(self, group: Group, w: np.ndarray) -> np.ndarray:
        whole = next(each for each in self.whole.projections if each.name == group.projection.name)
        factors = self.factors[whole.name][whole.matrices_of(self.layers)]
        wide = w[: len(group.tensors)].astype(np.promote_types(w.dtype, np.float32))
        return wide * factors[group.start : group.stop].astype(wide.dtype)[:, None, None]
