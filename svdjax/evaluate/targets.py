"""Models of a pair that a stage runs: post, base, and every constructed one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from svdjax.checkpoint import digest_of, load_params
from svdjax.construct.controls import controls_of
from svdjax.construct.variant_builder import Model, VariantBuilder
from svdjax.engine.context import Context
from svdjax.evaluate.inputs import EvalInputs, PromptedModel


@dataclass(frozen=True)
class TargetModel:
    """A model to be run.

    Attributes:
        name: ``post``, ``base`` or the name of a variant or control.
        title: Short description for tables and figures.
        reader: Its tokenised questions and prompts.
        weights: Digest of all that determines its weights.
        load: Returns its parameters, in their storage dtype.
    """

    name: str
    title: str
    reader: PromptedModel
    weights: str
    load: Callable[[], Any]


def target_models(
    variants: VariantBuilder, inputs: EvalInputs, context: Context, *, controls: bool = False
) -> list[TargetModel]:
    """Models of a pair, post first; constructed ones where the pair has any.

    Args:
        variants: Builder of the pair's variants.
        inputs: Questions and prompts of the sweep.
        context: Context of the stage.
        controls: Whether the controls of a constructed model follow it, where
            ``config.constructions.asked`` names its kind.
    """
    spec, readers = variants.job.spec, inputs.readers[variants.job.spec.name]
    identity, options = context.identity, context.settings.constructions

    def weights(source: str) -> str:
        return digest_of([identity["inputs"][source], identity["versions"]])

    def base() -> Any:
        return load_params(readers["base"].checkpoint, readers["base"].config, None)

    def constructed(model: Model) -> Callable[[], Any]:
        label = f"while {spec.name} {model.name} was made again"
        return lambda: variants.params(model, lambda: context.check(label))

    models: dict[str, Model] = {}
    for variant in variants.possible() if spec.constructed else ():
        models[variant.name] = variant
        if controls and variant.recipe.kind in options.asked:
            models |= {model.name: model for model in controls_of(variant, options.controls)}
    post = readers["post"]
    return [
        TargetModel("post", "original", post, weights(spec.post), variants.original),
        TargetModel("base", "base model", readers["base"], weights(spec.base), base),
        *(
            TargetModel(model.name, model.title, post, variants.key(model), constructed(model))
            for model in models.values()
        ),
    ]
