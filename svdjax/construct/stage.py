"""The constructions stage: every constructed model of a pair, one after the other, in memory.

Beside each variant stand its controls (`svdjax.construct.controls`). A variant is built group
by group out of factors that are computed once per checkpoint and kept in a cache on disk, and is
judged, where the pair names held-out text, by the decoder: which takes the memory of two such
models as they are stored, and of two in float32 (spread over the devices). Finished models are
journaled; a sweep that was killed redoes the one in flight.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from svdjax.atomic import remove_leftovers, write_json
from svdjax.checkpoint import Projection, digest_of, model_config
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.construct.build import by_tensor
from svdjax.construct.card import model_card
from svdjax.construct.changes import Change, pooled, record
from svdjax.construct.controls import Control
from svdjax.construct.heldout import Heldout
from svdjax.construct.job import ConstructJob
from svdjax.construct.recipes import Variant
from svdjax.construct.results import ConstructionResults, VariantResult
from svdjax.construct.tree import replaced_leaves
from svdjax.construct.variant_builder import Model, VariantBuilder, cached_builder, store
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import duration, note
from svdjax.engine.store import from_json, to_json
from svdjax.spectra.results import Comparison
from svdjax.text.divergence import Divergence, Divergences

_JOURNAL = ".constructions"
_AT_BASE = 1e-3


def run_variants(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    heldout: Mapping[str, Heldout],
    context: Context,
) -> dict[str, ConstructionResults]:
    """Makes and judges the variants of every pair that is to be constructed.

    Args:
        jobs: The validated pairs.
        comparisons: Their analyses; alpha' and the singular values of base come from them.
        heldout: Held-out text by pair, where there is one.
        context: The stage's.

    Returns:
        The results by pair, in the order of `jobs`.
    """
    stacks = cached_builder(context)

    def make(job: PairJob) -> ConstructionResults:
        name = job.spec.name
        builder = VariantBuilder(job, comparisons[name], stacks, context)
        results = _Pair(builder, heldout.get(name), context).run()
        results.save(context.workdir / name)
        return results

    constructed = [job for job in jobs if job.spec.constructed]
    results = context.pair_by_pair(constructed, ConstructionResults.load, make)
    shutil.rmtree(context.workdir / _JOURNAL, ignore_errors=True)
    return results


class _Pair:
    """The variants of one pair."""

    def __init__(self, builder: VariantBuilder, heldout: Heldout | None, context: Context):
        self.builder, self.heldout, self.context = builder, heldout, context
        self.job = builder.job
        self.journal = context.workdir / _JOURNAL / self.job.spec.name
        self._divergences: Divergences | None = None

    def run(self) -> ConstructionResults:
        chosen = self.context.settings.chosen_variants
        left_out = {each.name: why for each in chosen if (why := self.builder.why_not(each))}
        variants = [each for each in chosen if each.name not in left_out]
        # A control follows its variant, while that one's distances are remembered.
        ordered = [m for each in variants for m in (each, *self.builder.controls([each]))]
        models = {model.name: model for model in ordered}
        self.journal.mkdir(parents=True, exist_ok=True)
        remove_leftovers([self.journal])
        spec, text, times = self.job.spec, self.heldout, []
        results: dict[str, VariantResult] = {}
        for number, model in enumerate(models.values(), 1):
            done = f"constructions of {spec.name}: {number - 1} of {len(models)} done"
            self.context.check(done)
            result = self._read(model)
            if result is None:
                began = time.perf_counter()
                result = self._make(model, lambda done=done: self.context.check(done), began)
                times.append(result.seconds)
                write_json(
                    self.journal / f"{model.name}.json",
                    {"key": self._key(model), "result": to_json(result)},
                )
                # The first ones compile: the latest tell more of what is to come.
                left = sum(times[-3:]) / len(times[-3:]) * (len(models) - number)
                note(
                    f"constructed {number}/{len(models)} {spec.name} {model.name} "
                    f"({result.seconds:.2f} s; {_summary(result)}; {duration(left)} left)"
                )
            results[model.name] = result
        return ConstructionResults(
            pair=spec.name,
            base=spec.base,
            post=spec.post,
            other=spec.other,
            text=str(text.path) if text else "",
            texts=text.texts if text else 0,
            tokens=text.tokens if text else 0,
            original_loss=self._reference().measure(self.builder.original()).loss
            if text and models
            else math.nan,
            variants={each.name: results.pop(each.name) for each in variants},
            left_out=left_out,
            controls=results,
        )

    def _make(self, model: Model, check: Callable[[], None], began: float) -> VariantResult:
        control = model if isinstance(model, Control) else None
        variant = model.variant if isinstance(model, Control) else model
        construction = variant.recipe.name if variant else ""
        leaves: dict[str, np.ndarray] = {}
        projections = self.builder.projections(model)
        records: dict[str, list[dict[str, Any]]] = {each.name: [] for each in projections}
        with self._rewrite(model, projections) as rewrite:
            for group, built, _ in self.builder.groups(model, check):
                info = [
                    record(built, layer, "" if control else construction)
                    for layer in range(len(group.tensors))
                ]
                records[group.projection.name] += info
                if self.heldout is not None:
                    store(leaves, group, built)
                if rewrite is not None:
                    tensors = by_tensor(group, built.w)
                    rewrite.write(tensors, dict(zip(tensors, info, strict=True)))
            alphas = {} if isinstance(model, Control) else self.builder.alphas(model)
            changes = {name: pooled(each, alphas.get(name)) for name, each in records.items()}
            if rewrite is not None:
                assert isinstance(model, Variant)
                rewrite.finish(self._card(rewrite, model, changes))
        behaviour = Divergence(math.nan, math.nan, math.nan, math.nan, tokens=0)
        if self.heldout is not None:
            params = replaced_leaves(self.builder.original(), leaves)
            behaviour = self._reference().measure(params)
        every = [matrix for each in records.values() for matrix in each]
        whole = pooled(every)
        return VariantResult(
            name=model.name,
            construction=construction,
            modules=model.modules,
            signs=variant.signs if variant else "",
            title=model.title,
            change=whole.change,
            projections=changes,
            loss=behaviour.loss,
            kl=behaviour.kl,
            agreement=behaviour.agreement,
            seconds=time.perf_counter() - began,
            saved=f"models/{model.name}" if rewrite is not None else "",
            surviving=whole.surviving,
            surviving_predicted=whole.surviving_predicted,
            control=control.kind if control else "",
            control_of=variant.name if control and variant else "",
            # s is the surviving share; it is 0 but for what the storage dtype cannot carry.
            at_base=sum(matrix["surviving"] <= _AT_BASE for matrix in every)
            if control is not None and control.kind == "interpolated"
            else 0,
        )

    @contextlib.contextmanager
    def _rewrite(
        self, model: Model, projections: Sequence[Projection]
    ) -> Iterator[CheckpointRewrite | None]:
        """Where the checkpoint of a variant is written, if that is asked for; no control is."""
        if not self.context.settings.save_variants or isinstance(model, Control):
            yield None
            return
        target = self.context.workdir / self.job.spec.name / "models" / model.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with CheckpointRewrite(
            self.job.plan.post,
            target,
            replaced=[name for each in projections for name in each.tensors],
            identity=self._key(model),
            overwrite=True,
        ) as rewrite:
            for _ in rewrite.copy():
                self.context.check(f"while {model.name} was laid out")
            yield rewrite

    def _card(
        self, rewrite: CheckpointRewrite, variant: Variant, changes: Mapping[str, Change]
    ) -> str:
        """The model card of a variant: that of the command that would have written it."""
        spec = self.job.spec
        job = ConstructJob(
            base=spec.base,
            post=spec.post,
            other=spec.other if variant.recipe.partner == "other" else "",
            out=str(rewrite.target),
            construction=variant.recipe.name,
            modules=variant.modules,
            signs=variant.signs or "raw",
            factorisation=self.builder.stacks.factorisation,
        )
        return model_card(job, changes, range(max(each.layers for each in changes.values())))

    def _reference(self) -> Divergences:
        """Post on the devices, put there when it is first needed."""
        assert self.heldout is not None
        if self._divergences is None:
            config = model_config(self.job.plan.post.home)
            self._divergences = Divergences(
                self.builder.original(), config, self.heldout.rows, mesh=self.context.mesh
            )
        return self._divergences

    def _key(self, model: Model) -> str:
        """Digest of all that determines a model's numbers."""
        text, settings = self.job.spec.text, self.context.settings
        return digest_of(
            [
                self.builder.key(model),
                self.context.identity["inputs"][text] if text else "",
                settings.text_limit,
                settings.save_variants,
            ]
        )

    def _read(self, model: Model) -> VariantResult | None:
        """What an earlier run has journaled of a model."""
        try:
            stored = json.loads((self.journal / f"{model.name}.json").read_text("utf-8"))
            if stored["key"] != self._key(model):
                return None
            return from_json(VariantResult, stored["result"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _summary(result: VariantResult) -> str:
    text = f"changed by {100 * result.change:.3g} %"
    if math.isfinite(result.loss):
        text += f", loss {result.loss:.4g}, KL {result.kl:.3g}"
    return text
