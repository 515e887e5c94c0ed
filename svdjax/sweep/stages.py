"""The stages that come after the spectra, in the order in which a sweep runs them.

Adding one: a package with a subclass of `svdjax.engine.stages.Stage`, and its line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from svdjax.engine.stages import Stage

REGISTRY: dict[str, str] = {
    "nulls": "svdjax.nulls.contract:NullsStage",
    "constructions": "svdjax.construct.contract:ConstructionsStage",
    "probes": "svdjax.probe.contract:ProbesStage",
    "evaluation": "svdjax.evaluate.contract:EvaluationStage",
    "temperature": "svdjax.temperature.contract:TemperatureStage",
}
"""Name in ``config.stages`` to module and class."""


def stages_of(names: Iterable[str]) -> list[Stage]:
    """The stages of these names, in their order; ``spectra`` and ``report`` are not among them."""
    stages = []
    for name in names:
        if name in REGISTRY:
            module, _, kind = REGISTRY[name].partition(":")
            stages.append(getattr(importlib.import_module(module), kind)())
    return stages
