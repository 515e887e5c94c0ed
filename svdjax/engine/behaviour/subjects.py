"""The models of a pair that a stage runs: post, base, and every constructed one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from svdjax.checkpoint import digest_of, load_params
from svdjax.constructions.recipes import Variant
from svdjax.engine.behaviour.material import Material, Reader
from svdjax.engine.editing.making import Maker
from svdjax.engine.stage import Stage


@dataclass(frozen=True)
class Subject:
    """A model to be run.

    Attributes:
      name: ``post``, ``base`` or that of a variant.
      title: a few words for tables and figures.
      reader: how it reads.
      weights: digest of all that determines its weights.
      load: gives its parameters, in their storage dtype.
    """

    name: str
    title: str
    reader: Reader
    weights: str
    load: Callable[[], Any]


def subjects(maker: Maker, material: Material, stage: Stage) -> list[Subject]:
    """The models of a pair, post first; constructed ones where the pair has any."""
    spec, readers = maker.job.spec, material.readers[maker.job.spec.name]
    inputs, versions = stage.identity["inputs"], stage.identity["versions"]

    def weights(source: str) -> str:
        return digest_of([inputs[source], versions])

    def base() -> Any:
        return load_params(readers["base"].checkpoint, readers["base"].config, None)

    def constructed(variant: Variant) -> Callable[[], Any]:
        label = f"while {spec.name} {variant.name} was made again"
        return lambda: maker.params(variant, lambda: stage.check(label))

    found = [
        Subject("post", "original", readers["post"], weights(spec.post), maker.original),
        Subject("base", "base model", readers["base"], weights(spec.base), base),
    ]
    for variant in maker.possible() if spec.constructed else ():
        found.append(
            Subject(
                variant.name,
                variant.title,
                readers["post"],
                maker.key(variant),
                constructed(variant),
            )
        )
    return found
