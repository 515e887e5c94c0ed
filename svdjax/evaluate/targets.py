"""The models of a pair that a stage runs: post, base, and every constructed one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from svdjax.checkpoint import digest_of, load_params
from svdjax.construct.controls import controls_of
from svdjax.construct.recipes import Variant
from svdjax.construct.variant_builder import Model, VariantBuilder
from svdjax.engine.context import Context
from svdjax.evaluate.inputs import EvalInputs, PromptedModel


@dataclass(frozen=True)
class TargetModel:
    """A model to be run.

    Attributes:
        name: ``post``, ``base`` or that of a variant or control.
        title: A few words for tables and figures.
        reader: How it reads.
        weights: Digest of all that determines its weights.
        load: Gives its parameters, in their storage dtype.
    """

    name: str
    title: str
    reader: PromptedModel
    weights: str
    load: Callable[[], Any]


def target_models(
    maker: VariantBuilder, material: EvalInputs, stage: Context, *, controls: bool = False
) -> list[TargetModel]:
    """The models of a pair, post first; constructed ones where the pair has any.

    Args:
        maker: Of the pair.
        material: What they read.
        stage: As the sweep hands it over.
        controls: Behind a constructed model also its controls, where ``config.constructions.asked``
            names its kind.
    """
    spec, readers = maker.job.spec, material.readers[maker.job.spec.name]
    inputs, versions = stage.identity["inputs"], stage.identity["versions"]

    def weights(source: str) -> str:
        return digest_of([inputs[source], versions])

    def base() -> Any:
        return load_params(readers["base"].checkpoint, readers["base"].config, None)

    def constructed(variant: Model) -> Callable[[], Any]:
        label = f"while {spec.name} {variant.name} was made again"
        return lambda: maker.params(variant, lambda: stage.check(label))

    found = [
        TargetModel("post", "original", readers["post"], weights(spec.post), maker.original),
        TargetModel("base", "base model", readers["base"], weights(spec.base), base),
    ]
    options = stage.settings.constructions

    def with_controls(variant: Variant) -> tuple[Model, ...]:
        asked = controls and variant.recipe.kind in options.asked
        return (variant, *(controls_of(variant, options.controls) if asked else ()))

    models = maker.possible() if spec.constructed else ()
    every = {one.name: one for variant in models for one in with_controls(variant)}
    for variant in every.values():
        found.append(
            TargetModel(
                variant.name,
                variant.title,
                readers["post"],
                maker.key(variant),
                constructed(variant),
            )
        )
    return found
