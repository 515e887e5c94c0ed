"""Which projections and layers of a pair a construction is applied to."""

from __future__ import annotations

from svdjax.checkpoint import PairPlan, Projection
from svdjax.construct.selection import Layers, Modules
from svdjax.errors import InputError


def site(projection: Projection) -> str:
    """The projection's dotted name inside a block; for unknown architectures the tensor's stem."""
    stem = projection.name.removesuffix(".weight")
    return f"{projection.module}.{stem}" if projection.module else stem


def chosen_projections(plan: PairPlan, modules: Modules, layers: Layers) -> tuple[Projection, ...]:
    """The chosen projections of a plan, with all their layers.

    Raises:
      InputError: nothing is chosen; or the architecture is unknown, so that linear layers cannot
        be told from embeddings, and the choice needs to.
    """
    if plan.family == "unknown":
        kind = plan.post.config.get("model_type")
        if modules.text == "all":
            raise InputError(
                f"{plan.post.path}: model_type {kind!r} has no name table, so linear layers cannot "
                "be told from embeddings; choose with a regular expression, such as "
                r"--modules='layers\.\d+\.(self_attn|mlp)\.'"
            )
        if layers != Layers():
            raise InputError(
                f"{plan.post.path}: model_type {kind!r} has no name table, so layers have no "
                "numbers; choose them by the regular expression of --modules"
            )
    by_site = {site(projection): projection for projection in plan.projections}
    return tuple(by_site[name] for name in modules.choose(list(by_site)))


def chosen_layers(plan: PairPlan, layers: Layers) -> tuple[int, ...]:
    """Numbers of the chosen layers.

    Raises:
      InputError: the model has no such layer.
    """
    return layers.choose(max(len(projection.tensors) for projection in plan.projections))
