"""Builds any constructed model of a pair, as often as stages need it, out of kept factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from svdjax.checkpoint import PairPlan, Projection, digest_of, load_params, model_config
from svdjax.checkpoint.cache import ArrayCache
from svdjax.construct.build import ControlSpec, StackBuilder, build_groups
from svdjax.construct.controls import Control, controls_of
from svdjax.construct.recipes import RECIPES, Variant
from svdjax.construct.tree import replaced_leaves
from svdjax.engine.context import Context
from svdjax.engine.groups import Group, plan_groups
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.spectra.results import Comparison
from svdjax.spectral import Built

Model = Variant | Control
FACTORS = ".factors"
_ROUTE = "svd_f64"


def kept_builder(stage: Context) -> StackBuilder:
    """What builds the variants of a sweep: factors are computed once, for all of its stages."""
    directory = stage.settings.factor_cache or stage.workdir / FACTORS
    cache = ArrayCache(directory, stage.settings.factor_cache_bytes, note=note)
    return StackBuilder(_ROUTE, stage.mesh, cache)


class VariantBuilder:
    """The constructed models of one pair.

    Attributes:
      job: the pair.
      builder: how they are built, with the cache of the factors.
    """

    def __init__(self, job: PairJob, comparison: Comparison, builder: StackBuilder, stage: Context):
        self.job, self.builder = job, builder
        self._comparison, self._stage = comparison, stage
        self._original: dict[str, Any] | None = None
        self._distances: dict[str, dict[str, np.ndarray]] = {}

    def why_not(self, variant: Variant) -> str:
        """Why a variant cannot be made; empty where it can."""
        if self.job.plan.family == "unknown":
            return "the architecture has no name table: attention and MLP cannot be told apart"
        if variant.recipe.partner == "other" and self.job.other is None:
            return "the config names no other post model of the same base"
        if variant.recipe.scaled:
            bad = [
                name
                for name, one in self._comparison.projections.items()
                if not one.alpha_prime > 0
            ]
            if bad:
                return f"alpha' is not defined or 0 for {', '.join(bad)}"
        return ""

    def possible(self) -> list[Variant]:
        """The chosen variants that can be made, in their order."""
        chosen = self._stage.settings.chosen_variants
        return [variant for variant in chosen if not self.why_not(variant)]

    def controls(self, variants: Iterable[Variant]) -> list[Control]:
        """The controls of variants that are to be made; those of a module once."""
        kinds = self._stage.settings.constructions.controls
        found = [one for variant in variants for one in controls_of(variant, kinds)]
        return list({one.name: one for one in found}.values())

    def projections(self, model: Model) -> tuple[Projection, ...]:
        """What a variant or control edits."""
        plan = self._plan(_carried(model))
        return tuple(one for one in plan.projections if model.modules in ("all", one.module))

    def alphas(self, variant: Variant) -> dict[str, float]:
        """alpha' by projection where it enters."""
        if not variant.recipe.scaled:
            return {}
        return {one.name: self._alpha(one) for one in self.projections(variant)}

    def groups(
        self, model: Model, check: Callable[[], None]
    ) -> Iterator[tuple[Group, Built, float]]:
        """Yields groups of layers with their new matrices [L, I, O] and the seconds it took.

        How far a variant moved its matrices is remembered for its controls; a control whose variant
        was not made before carries it out again.
        """
        variant = _carried(model)
        whole, projections = self._plan(variant), self.projections(model)
        plan = replace(whole, projections=projections)
        sigma = {}
        if variant.recipe.values_only:
            for one in projections:
                values = self._comparison[one.name].metrics.sigma_base
                sigma[one.name] = np.asarray(values, np.float64)
        groups = plan_groups(
            self.job.spec.name,
            plan,
            # Factors in float64 take eight times the bytes of the matrices in bf16.
            group_bytes=max(1, self._stage.settings.group_bytes // 8),
            devices=self.builder.mesh.size,
        )
        stream = build_groups(
            groups,
            plan,
            self.builder,
            variant.recipe,
            sigma=sigma,
            alphas=self.alphas(variant),
            signs=variant.signs or "raw",
            dtype=lambda tensor: plan.post.spec(tensor).dtype,
            check=check,
            base=self.job.plan.base if variant.recipe.partner == "other" else None,
            control=self._control(model),
        )
        moved: dict[str, list[np.ndarray]] = {one.name: [] for one in projections}
        for group, built, seconds in stream:
            moved[group.projection.name].append(
                np.asarray(built.change)[: group.stop - group.start]
            )
            yield group, built, seconds
        if isinstance(model, Variant):
            self._distances[model.name] = {k: np.concatenate(v) for k, v in moved.items()}

    def original(self) -> dict[str, Any]:
        """The parameters of post in their storage dtype, read when they are first needed."""
        if self._original is None:
            post = self.job.plan.post
            self._original = load_params(post, model_config(post.home), None)
        return self._original

    def params(self, model: Model, check: Callable[[], None]) -> dict[str, Any]:
        """The parameters of a constructed model or control; other leaves are `original`'s."""
        leaves: dict[str, np.ndarray] = {}
        for group, built, _ in self.groups(model, check):
            store(leaves, group, built)
        return replaced_leaves(self.original(), leaves)

    def key(self, model: Model) -> str:
        """Digest of all that determines the weights of a variant or control."""
        settings, inputs = self._stage.settings, self._stage.identity["inputs"]
        spec = self.job.spec
        about = [
            model.name,
            # By role: two pairs of the same three models differ in nothing else.
            [inputs[spec.base], inputs[spec.post], inputs[spec.other] if spec.other else None],
            self._stage.identity["versions"],
            settings.factorisation,
            settings.group_bytes,
        ]
        if isinstance(model, Control):
            about.append(settings.constructions.seed)
        return digest_of(about)

    def _plan(self, variant: Variant) -> PairPlan:
        plan = self.job.other if variant.recipe.partner == "other" else self.job.plan
        assert plan is not None
        return plan

    def _control(self, model: Model) -> ControlSpec | None:
        if isinstance(model, Variant):
            return None
        known = self._distances.get(model.variant.name, {}) if model.variant else {}
        return ControlSpec(model.kind, self._stage.settings.constructions.seed, known)

    def _alpha(self, projection: Projection) -> float:
        return self._comparison[projection.name].alpha_prime


def _carried(model: Model) -> Variant:
    """The variant that is carried out for a model: itself, or that of a control."""
    if isinstance(model, Variant):
        return model
    # What is only reverted needs none; its modules and its partner, base, are those of any.
    return model.variant or Variant(model.name, RECIPES["eq11"], model.modules)


def store(leaves: dict[str, np.ndarray], group: Group, built: Built) -> None:
    """Puts the layers of a group into the leaf that is to replace that of post."""
    one = group.projection
    path = f"layers/{one.module}/{one.name}/kernel"
    if path not in leaves:
        leaves[path] = np.empty((len(one.tensors), *one.shape), built.w.dtype)
    leaves[path][group.start : group.stop] = built.w[: group.stop - group.start]
