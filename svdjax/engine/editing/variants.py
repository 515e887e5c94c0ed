"""The constructions stage: every constructed model of a pair, one after the other, in memory.

A variant is built group by group out of factors that are computed once per checkpoint and kept in
a cache on disk, and is judged, where the pair names held-out text, by the decoder: which takes the
memory of two such models as they are stored, and of two in float32 (spread over the devices).
Finished variants are journaled; a sweep that was killed redoes the one in flight.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from svdjax.atomic import plain, remove_leftovers, write_json
from svdjax.behaviour import Divergence, Divergences
from svdjax.checkpoint import PairPlan, Projection, load_params, model_config
from svdjax.checkpoint.cache import ArrayCache
from svdjax.checkpoint.mirror import Mirror
from svdjax.constructions.changes import Change, pooled, record
from svdjax.constructions.recipes import Variant
from svdjax.constructions.tree import replaced_leaves
from svdjax.engine.editing.building import Builder, build_groups, by_tensor
from svdjax.engine.editing.card import model_card
from svdjax.engine.editing.construct_job import ConstructJob
from svdjax.engine.editing.heldout import Heldout
from svdjax.engine.editing.results import FILE, ConstructionResults, VariantResult
from svdjax.engine.groups import plan_groups
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import duration, note
from svdjax.engine.results import Comparison
from svdjax.engine.stage import Stage
from svdjax.errors import InputError

_JOURNAL, _FACTORS = ".constructions", ".factors"
_ROUTE = "svd_f64"


def run_variants(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    heldout: Mapping[str, Heldout],
    stage: Stage,
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
    before, start = stage.entry.get("seconds", 0.0), time.perf_counter()
    stage.entry["status"] = "running"
    entries = stage.entry.setdefault("pairs", {})
    results = {}
    with _cache(stage) as cache:
        builder = Builder(_ROUTE, stage.mesh, cache)
        for job in jobs:
            name = job.spec.name
            if not job.spec.constructed:
                continue
            found = _finished(stage.workdir / name, entries.get(name, {}))
            if found is None:
                began = time.perf_counter()
                pair = _Pair(job, comparisons[name], heldout.get(name), stage, builder)
                found = pair.run()
                found.save(stage.workdir / name)
                entries[name] = {"status": "done", "seconds": time.perf_counter() - began}
                stage.entry["seconds"] = before + time.perf_counter() - start
                stage.save()
            results[name] = found
    for left in (_JOURNAL, _FACTORS):
        shutil.rmtree(stage.workdir / left, ignore_errors=True)
    stage.entry.update(status="done", seconds=before + time.perf_counter() - start)
    return results


@contextlib.contextmanager
def _cache(stage: Stage) -> Iterator[ArrayCache]:
    directory = stage.settings.factor_cache or stage.workdir / _FACTORS
    yield ArrayCache(directory, stage.settings.factor_cache_bytes, note=note)


def _finished(directory: pathlib.Path, entry: Mapping[str, Any]) -> ConstructionResults | None:
    if entry.get("status") != "done" or not (directory / FILE).is_file():
        return None
    try:
        return ConstructionResults.load(directory)
    except InputError:
        return None


class _Pair:
    """The variants of one pair."""

    def __init__(
        self,
        job: PairJob,
        comparison: Comparison,
        heldout: Heldout | None,
        stage: Stage,
        builder: Builder,
    ):
        self.job, self.comparison, self.heldout = job, comparison, heldout
        self.stage, self.builder = stage, builder
        self.journal = stage.workdir / _JOURNAL / job.spec.name
        self._original: dict[str, Any] | None = None
        self._divergences: Divergences | None = None

    def run(self) -> ConstructionResults:
        chosen = self.stage.settings.chosen_variants
        left_out = {one.name: why for one in chosen if (why := self._why_not(one))}
        wanted = [one for one in chosen if one.name not in left_out]
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
        return ConstructionResults(
            pair=spec.name,
            base=spec.base,
            post=spec.post,
            other=spec.other,
            text=str(text.path) if text else "",
            texts=text.texts if text else 0,
            tokens=text.tokens if text else 0,
            original_loss=self._original_loss() if text and wanted else math.nan,
            variants=results,
            left_out=left_out,
        )

    def _why_not(self, variant: Variant) -> str:
        if self.job.plan.family == "unknown":
            return "the architecture has no name table: attention and MLP cannot be told apart"
        if variant.recipe.partner == "other" and self.job.other is None:
            return "the config names no other post model of the same base"
        if variant.recipe.scaled:
            bad = [
                name for name, one in self.comparison.projections.items() if not one.alpha_prime > 0
            ]
            if bad:
                return f"alpha' is not defined or 0 for {', '.join(bad)}"
        return ""

    def _make(self, variant: Variant, check: Callable[[], None], began: float) -> VariantResult:
        recipe = variant.recipe
        plan = self.job.other if recipe.partner == "other" else self.job.plan
        assert plan is not None
        projections = tuple(
            one for one in plan.projections if variant.modules in ("all", one.module)
        )
        plan = PairPlan(plan.base, plan.post, plan.family, projections, plan.coverage, plan.notes)
        results = {one.name: self.comparison[one.name] for one in projections}
        alphas = {name: one.alpha_prime for name, one in results.items()} if recipe.scaled else {}
        sigma = {}
        if recipe.values_only:
            sigma = {k: np.asarray(v.metrics.sigma_base, np.float64) for k, v in results.items()}
        leaves: dict[str, np.ndarray] = {}
        records: dict[str, list[dict[str, Any]]] = {one.name: [] for one in projections}
        with self._mirror(variant, projections) as mirror:
            groups = plan_groups(
                self.job.spec.name,
                plan,
                # Factors in float64 take eight times the bytes of the matrices in bf16.
                group_bytes=max(1, self.stage.settings.group_bytes // 8),
                devices=self.builder.mesh.size,
            )
            stream = build_groups(
                groups,
                plan,
                self.builder,
                recipe,
                sigma=sigma,
                alphas=alphas,
                signs=variant.signs or "raw",
                dtype=lambda tensor: plan.post.spec(tensor).dtype,
                check=check,
            )
            for group, built, _ in stream:
                mine = [record(built, layer) for layer in range(group.stop - group.start)]
                records[group.projection.name] += mine
                if self.heldout is not None:
                    _store(leaves, group.projection, group.start, group.stop, built.w)
                if mirror is not None:
                    values = by_tensor(group, built)
                    mirror.write(values, dict(zip(values, mine, strict=True)))
            changes = {k: pooled(v, alphas.get(k)) for k, v in records.items()}
            saved = ""
            if mirror is not None:
                saved = self._finish(mirror, variant, changes)
        found = self._measure(leaves)
        every = [one for each in records.values() for one in each]
        return VariantResult(
            name=variant.name,
            construction=recipe.name,
            modules=variant.modules,
            signs=variant.signs,
            title=variant.title,
            change=pooled(every).change,
            projections=changes,
            loss=found.loss if found else math.nan,
            kl=found.kl if found else math.nan,
            agreement=found.agreement if found else math.nan,
            seconds=time.perf_counter() - began,
            saved=saved,
        )

    @contextlib.contextmanager
    def _mirror(
        self, variant: Variant, projections: Sequence[Projection]
    ) -> Iterator[Mirror | None]:
        """Where the checkpoint of a variant is written, if that is asked for."""
        if not self.stage.settings.save_variants:
            yield None
            return
        target = self.stage.workdir / self.job.spec.name / "models" / variant.name
        target.parent.mkdir(parents=True, exist_ok=True)
        replaced = [name for one in projections for name in one.tensors]
        key = self._key(variant)
        with Mirror(
            self.job.plan.post, target, replaced=replaced, identity=key, overwrite=True
        ) as mirror:
            for _ in mirror.copy():
                self.stage.check(f"while {variant.name} was laid out")
            yield mirror

    def _finish(self, mirror: Mirror, variant: Variant, changes: Mapping[str, Change]) -> str:
        spec = self.job.spec
        card = ConstructJob(
            base=spec.base,
            post=spec.post,
            other=spec.other if variant.recipe.partner == "other" else "",
            out=str(mirror.target),
            construction=variant.recipe.name,
            modules=variant.modules,
            signs=variant.signs or "raw",
            factorisation=self.builder.factorisation,
        )
        post = self.job.plan.post
        config = {key: value for key, value in post.config.items() if key != "auto_map"}
        layers = range(max(one.layers for one in changes.values()))
        mirror.finish(config, model_card(card, changes, layers))
        return f"models/{variant.name}"

    def _measure(self, leaves: Mapping[str, np.ndarray]) -> Divergence | None:
        if self.heldout is None:
            return None
        original, divergences = self._loaded()
        return divergences.measure(replaced_leaves(original, leaves))

    def _original_loss(self) -> float:
        original, divergences = self._loaded()
        return divergences.measure(original).loss

    def _loaded(self) -> tuple[dict[str, Any], Divergences]:
        """The post model in its storage dtype, read when it is first needed."""
        assert self.heldout is not None
        if self._original is None or self._divergences is None:
            post = self.job.plan.post
            config = model_config(post.path)
            self._original = load_params(post, config, None)
            self._divergences = Divergences(
                self._original, config, self.heldout.rows, mesh=self.stage.mesh
            )
        return self._original, self._divergences

    def _key(self, variant: Variant) -> str:
        """Digest of all that determines a variant's numbers."""
        spec, settings = self.job.spec, self.stage.settings
        sources = [source for source in (*self.job.sources, spec.text) if source]
        text = json.dumps(
            plain(
                [
                    variant.name,
                    {source: self.stage.identity["inputs"][source] for source in sources},
                    self.stage.identity["versions"],
                    settings.factorisation,
                    settings.text_limit,
                    settings.save_variants,
                    settings.group_bytes,
                ]
            ),
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def _read(self, variant: Variant) -> VariantResult | None:
        """A variant that an earlier run has journaled."""
        try:
            stored = json.loads((self.journal / f"{variant.name}.json").read_text("utf-8"))
            if stored["key"] != self._key(variant):
                return None
            return VariantResult.load(stored["result"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _store(
    leaves: dict[str, np.ndarray], projection: Projection, start: int, stop: int, w: Any
) -> None:
    """Put layers of a projection into the leaf that is to replace that of post."""
    path = f"layers/{projection.module}/{projection.name}/kernel"
    if path not in leaves:
        leaves[path] = np.empty((len(projection.tensors), *projection.shape), w.dtype)
    leaves[path][start:stop] = w[: stop - start]


def _said(result: VariantResult) -> str:
    text = f"changed by {100 * result.change:.3g} %"
    if math.isfinite(result.loss):
        text += f", loss {result.loss:.4g}, KL {result.kl:.3g}"
    return text
