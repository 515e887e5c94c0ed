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
from svdjax.checkpoint.mirror import CheckpointRewrite
from svdjax.construct.build import by_tensor
from svdjax.construct.card import model_card
from svdjax.construct.changes import Change, pooled, record
from svdjax.construct.controls import Control
from svdjax.construct.heldout import Heldout
from svdjax.construct.job import ConstructJob
from svdjax.construct.recipes import Variant
from svdjax.construct.results import ConstructionResults, VariantResult
from svdjax.construct.tree import replaced_leaves
from svdjax.construct.variant_builder import Model, VariantBuilder, kept_builder, store
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import duration, note
from svdjax.spectra.results import Comparison
from svdjax.text.divergence import Divergence, Divergences

_JOURNAL = ".constructions"
_AT_BASE = 1e-3


def run_variants(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    heldout: Mapping[str, Heldout],
    stage: Context,
) -> dict[str, ConstructionResults]:
    """Makes and judges the variants of every pair that is to be constructed.

    Args:
      jobs: the validated pairs.
      comparisons: their analyses; alpha' and the singular values of base come from them.
      heldout: held-out text by pair, where there is one.
      stage: see there.

    Returns:
      The results by pair, in the order of `jobs`.
    """
    builder = kept_builder(stage)

    def make(job: PairJob) -> ConstructionResults:
        name = job.spec.name
        maker = VariantBuilder(job, comparisons[name], builder, stage)
        found = _Pair(maker, heldout.get(name), stage).run()
        found.save(stage.workdir / name)
        return found

    constructed = [job for job in jobs if job.spec.constructed]
    results = stage.pair_by_pair(constructed, ConstructionResults.load, make)
    shutil.rmtree(stage.workdir / _JOURNAL, ignore_errors=True)
    return results


class _Pair:
    """The variants of one pair."""

    def __init__(self, maker: VariantBuilder, heldout: Heldout | None, stage: Context):
        self.maker, self.job, self.heldout, self.stage = maker, maker.job, heldout, stage
        self.journal = stage.workdir / _JOURNAL / self.job.spec.name
        self._divergences: Divergences | None = None

    def run(self) -> ConstructionResults:
        chosen = self.stage.settings.chosen_variants
        left_out = {one.name: why for one in chosen if (why := self.maker.why_not(one))}
        made = [one for one in chosen if one.name not in left_out]
        wanted = self._with_controls(made)
        self.journal.mkdir(parents=True, exist_ok=True)
        remove_leftovers([self.journal])
        spec, results, times = self.job.spec, {}, []
        for number, variant in enumerate(wanted, 1):
            done = f"constructions of {spec.name}: {number - 1} of {len(wanted)} done"
            self.stage.check(done)
            kept = self._read(variant)
            if kept is None:
                began = time.perf_counter()
                kept = self._make(variant, lambda done=done: self.stage.check(done), began)
                times.append(kept.seconds)
                write_json(
                    self.journal / f"{variant.name}.json",
                    {"key": self._key(variant), "result": kept.summary()},
                )
                # The first ones compile: the latest tell more of what is to come.
                left = sum(times[-3:]) / len(times[-3:]) * (len(wanted) - number)
                note(
                    f"constructed {number}/{len(wanted)} {spec.name} {variant.name} "
                    f"({kept.seconds:.2f} s; {_said(kept)}; {duration(left)} left)"
                )
            results[variant.name] = kept
        text = self.heldout
        constructed = {one.name: results[one.name] for one in made}
        return ConstructionResults(
            pair=spec.name,
            base=spec.base,
            post=spec.post,
            other=spec.other,
            text=str(text.path) if text else "",
            texts=text.texts if text else 0,
            tokens=text.tokens if text else 0,
            original_loss=self._held_against().measure(self.maker.original()).loss
            if text and wanted
            else math.nan,
            variants=constructed,
            left_out=left_out,
            controls={name: one for name, one in results.items() if name not in constructed},
        )

    def _with_controls(self, variants: Sequence[Variant]) -> list[Model]:
        """Each variant with its controls behind it, while its distances are remembered."""
        found: dict[str, Model] = {}
        for variant in variants:
            for one in (variant, *self.maker.controls([variant])):
                found.setdefault(one.name, one)
        return list(found.values())

    def _make(self, variant: Model, check: Callable[[], None], began: float) -> VariantResult:
        projections = self.maker.projections(variant)
        control = variant if isinstance(variant, Control) else None
        origin = variant.variant if isinstance(variant, Control) else variant
        construction = origin.recipe.name if origin else ""
        leaves: dict[str, np.ndarray] = {}
        records: dict[str, list[dict[str, Any]]] = {one.name: [] for one in projections}
        with self._mirror(variant, projections) as mirror:
            for group, built, _ in self.maker.groups(variant, check):
                mine = [
                    record(built, layer, "" if control else construction)
                    for layer in range(group.stop - group.start)
                ]
                records[group.projection.name] += mine
                if self.heldout is not None:
                    store(leaves, group, built)
                if mirror is not None:
                    values = by_tensor(group, built)
                    mirror.write(values, dict(zip(values, mine, strict=True)))
            alphas = {} if isinstance(variant, Control) else self.maker.alphas(variant)
            changes = {k: pooled(v, alphas.get(k)) for k, v in records.items()}
            saved = ""
            if mirror is not None:
                assert isinstance(variant, Variant)
                saved = self._finish(mirror, variant, changes)
        found = self._measure(leaves)
        every = [one for each in records.values() for one in each]
        whole = pooled(every)
        return VariantResult(
            name=variant.name,
            construction=construction,
            modules=variant.modules,
            signs=origin.signs if origin else "",
            title=variant.title,
            change=whole.change,
            projections=changes,
            loss=found.loss if found else math.nan,
            kl=found.kl if found else math.nan,
            agreement=found.agreement if found else math.nan,
            seconds=time.perf_counter() - began,
            saved=saved,
            surviving=whole.surviving,
            surviving_predicted=whole.surviving_predicted,
            control=control.kind if control else "",
            control_of=origin.name if control and origin else "",
            # s is the surviving share; it is 0 but for what the storage dtype cannot carry.
            at_base=sum(one["surviving"] <= _AT_BASE for one in every)
            if control is not None and control.kind == "interpolated"
            else 0,
        )

    @contextlib.contextmanager
    def _mirror(
        self, variant: Model, projections: Sequence[Projection]
    ) -> Iterator[CheckpointRewrite | None]:
        """Where the checkpoint of a variant is written, if that is asked for; no control is."""
        if not self.stage.settings.save_variants or isinstance(variant, Control):
            yield None
            return
        target = self.stage.workdir / self.job.spec.name / "models" / variant.name
        target.parent.mkdir(parents=True, exist_ok=True)
        replaced = [name for one in projections for name in one.tensors]
        key = self._key(variant)
        with CheckpointRewrite(
            self.job.plan.post, target, replaced=replaced, identity=key, overwrite=True
        ) as mirror:
            for _ in mirror.copy():
                self.stage.check(f"while {variant.name} was laid out")
            yield mirror

    def _finish(
        self, mirror: CheckpointRewrite, variant: Variant, changes: Mapping[str, Change]
    ) -> str:
        spec = self.job.spec
        card = ConstructJob(
            base=spec.base,
            post=spec.post,
            other=spec.other if variant.recipe.partner == "other" else "",
            out=str(mirror.target),
            construction=variant.recipe.name,
            modules=variant.modules,
            signs=variant.signs or "raw",
            factorisation=self.maker.builder.factorisation,
        )
        post = self.job.plan.post
        config = {key: value for key, value in post.config.items() if key != "auto_map"}
        layers = range(max(one.layers for one in changes.values()))
        mirror.finish(config, model_card(card, changes, layers))
        return f"models/{variant.name}"

    def _measure(self, leaves: Mapping[str, np.ndarray]) -> Divergence | None:
        if self.heldout is None:
            return None
        return self._held_against().measure(replaced_leaves(self.maker.original(), leaves))

    def _held_against(self) -> Divergences:
        """Post on the devices, put there when it is first needed."""
        assert self.heldout is not None
        if self._divergences is None:
            config = model_config(self.job.plan.post.home)
            self._divergences = Divergences(
                self.maker.original(), config, self.heldout.rows, mesh=self.stage.mesh
            )
        return self._divergences

    def _key(self, variant: Model) -> str:
        """Digest of all that determines a variant's numbers."""
        text, settings = self.job.spec.text, self.stage.settings
        about = [
            self.maker.key(variant),
            self.stage.identity["inputs"][text] if text else "",
            settings.text_limit,
            settings.save_variants,
        ]
        return digest_of(about)

    def _read(self, variant: Model) -> VariantResult | None:
        """A variant that an earlier run has journaled."""
        try:
            stored = json.loads((self.journal / f"{variant.name}.json").read_text("utf-8"))
            if stored["key"] != self._key(variant):
                return None
            return VariantResult.load(stored["result"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _said(result: VariantResult) -> str:
    text = f"changed by {100 * result.change:.3g} %"
    if math.isfinite(result.loss):
        text += f", loss {result.loss:.4g}, KL {result.kl:.3g}"
    return text
