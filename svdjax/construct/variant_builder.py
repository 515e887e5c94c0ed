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
_FACTORISATION = "svd_f64"


def cached_builder(context: Context) -> StackBuilder:
    """What builds the variants of a sweep: factors are computed once, for all of its stages."""
    directory = context.settings.factor_cache or context.workdir / FACTORS
    cache = ArrayCache(directory, context.settings.factor_cache_bytes, note=note)
    return StackBuilder(_FACTORISATION, context.mesh, cache)


class VariantBuilder:
    """The constructed models of one pair.

    Attributes:
        job: The pair.
        stacks: How their matrices are built, with the cache of the factors.
    """

    def __init__(
        self, job: PairJob, comparison: Comparison, stacks: StackBuilder, context: Context
    ):
        self.job, self.stacks = job, stacks
        self._comparison, self._context = comparison, context
        self._original: dict[str, Any] | None = None
        self._distances: dict[str, dict[str, np.ndarray]] = {}

    def why_not(self, variant: Variant) -> str:
        """Why a variant cannot be made; empty where it can."""
        if self.job.plan.family == "unknown":
            return "the architecture has no name table: attention and MLP cannot be told apart"
        if variant.recipe.partner == "other" and self.job.other is None:
            return "the config names no other post model of the same base"
        if variant.recipe.scaled:
            projections = self._comparison.projections.items()
            bad = [name for name, each in projections if not each.alpha_prime > 0]
            if bad:
                return f"alpha' is not defined or 0 for {', '.join(bad)}"
        return ""

    def possible(self) -> list[Variant]:
        """The chosen variants that can be made, in their order."""
        chosen = self._context.settings.chosen_variants
        return [variant for variant in chosen if not self.why_not(variant)]

    def controls(self, variants: Iterable[Variant]) -> list[Control]:
        """The controls of variants that are to be made; those of a module once."""
        kinds = self._context.settings.constructions.controls
        controls = [each for variant in variants for each in controls_of(variant, kinds)]
        return list({each.name: each for each in controls}.values())

    def projections(self, model: Model) -> tuple[Projection, ...]:
        """What a variant or control edits."""
        plan = self._plan(variant_of(model))
        return tuple(each for each in plan.projections if model.modules in ("all", each.module))

    def alphas(self, variant: Variant) -> dict[str, float]:
        """alpha' by projection where it enters."""
        if not variant.recipe.scaled:
            return {}
        names = [each.name for each in self.projections(variant)]
        return {name: self._comparison[name].alpha_prime for name in names}

    def groups(
        self, model: Model, check: Callable[[], None]
    ) -> Iterator[tuple[Group, Built, float]]:
        """Yields groups of layers with their new matrices [L, I, O] and the seconds it took.

        How far a variant moved its matrices is remembered for its controls; a control whose variant
        was not made before carries it out again.
        """
        variant, (plan, groups) = variant_of(model), self._cut(model)
        sigma = {}
        if variant.recipe.values_only:
            for each in plan.projections:
                values = self._comparison[each.name].flat.metrics.sigma_base
                sigma[each.name] = np.asarray(values, np.float64)
        control = None
        if isinstance(model, Control):
            distances = self._distances.get(variant.name, {}) if model.variant else {}
            seed = self._context.settings.constructions.seed
            control = ControlSpec(model.kind, seed, distances)
        stream = build_groups(
            groups,
            plan,
            self.stacks,
            variant.recipe,
            sigma=sigma,
            alphas=self.alphas(variant),
            signs=variant.signs or "raw",
            dtype=lambda tensor: plan.post.spec(tensor).dtype,
            check=check,
            base=self.job.plan.base if variant.recipe.partner == "other" else None,
            control=control,
        )
        moved: dict[str, list[np.ndarray]] = {each.name: [] for each in plan.projections}
        for group, built, seconds in stream:
            moved[group.projection.name].append(np.asarray(built.change)[: len(group.tensors)])
            yield group, built, seconds
        if isinstance(model, Variant):
            self._distances[model.name] = {k: np.concatenate(v) for k, v in moved.items()}

    def factored(self, variant: Variant) -> list[tuple[str, Group]]:
        """The stacks whose factors a variant is built of: where they are read from, and layers."""
        spec, (_, groups) = self.job.spec, self._cut(variant)
        partner = spec.other if variant.recipe.partner == "other" else spec.base
        sources = [spec.post] if variant.recipe.values_only else [spec.post, partner]
        return [(source, group) for group in groups for source in sources]

    def original(self) -> dict[str, Any]:
        """The parameters of post in their storage dtype, read when they are first needed."""
        if self._original is None:
            post = self.job.plan.post
            self._original = load_params(post, model_config(post), None)
        return self._original

    def params(self, model: Model, check: Callable[[], None]) -> dict[str, Any]:
        """The parameters of a constructed model or control; other leaves are `original`'s."""
        leaves: dict[str, np.ndarray] = {}
        for group, built, _ in self.groups(model, check):
            store(leaves, group, built)
        return replaced_leaves(self.original(), leaves)

    def key(self, model: Model) -> str:
        """Digest of all that determines the weights of a variant or control."""
        settings, inputs = self._context.settings, self._context.identity["inputs"]
        spec = self.job.spec
        about = [
            model.name,
            # By role: two pairs of the same three models differ in nothing else.
            [inputs[spec.base], inputs[spec.post], inputs[spec.other] if spec.other else None],
            self._context.identity["versions"],
            settings.factorisation,
            settings.group_bytes,
        ]
        if isinstance(model, Control):
            about.append(settings.constructions.seed)
        return digest_of(about)

    def _cut(self, model: Model) -> tuple[PairPlan, list[Group]]:
        """The partner and post with the projections that a model edits, and their groups."""
        plan = replace(self._plan(variant_of(model)), projections=self.projections(model))
        groups = plan_groups(
            self.job.spec.name,
            plan,
            # Factors in float64 take eight times the bytes of the matrices in bf16.
            group_bytes=max(1, self._context.settings.group_bytes // 8),
            devices=self._context.mesh.size,
        )
        return plan, groups

    def _plan(self, variant: Variant) -> PairPlan:
        plan = self.job.other if variant.recipe.partner == "other" else self.job.plan
        assert plan is not None
        return plan


def variant_of(model: Model) -> Variant:
    """The variant that is carried out for a model: itself, or that of a control."""
    if isinstance(model, Variant):
        return model
    # What is only reverted needs none; its modules and its partner, base, are those of any.
    return model.variant or Variant(model.name, RECIPES["eq11"], model.modules)


def store(leaves: dict[str, np.ndarray], group: Group, built: Built) -> None:
    """Puts the layers of a group into the leaf that is to replace that of post."""
    projection = group.projection
    experts = (len(projection.experts),) if projection.experts else ()
    if projection.path not in leaves:
        shape = (len(projection.layers), *experts, *projection.shape)
        leaves[projection.path] = np.empty(shape, built.w.dtype)
    matrices = leaves[projection.path].reshape(-1, *projection.shape)
    matrices[group.start : group.stop] = built.w[: len(group.tensors)]
