"""Reads a sweep's config into plain dataclasses and says at once everything that is wrong with it.

Imports no jax: whatever can be said without it is said first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax.atomic import plain
from svdjax.constructions.recipes import VARIANTS, Variant
from svdjax.engine.behaviour.evaluate_job import Protocol
from svdjax.engine.behaviour.model_options import ModelOptions
from svdjax.engine.behaviour.probe_job import Probing
from svdjax.engine.editing.options import ConstructionOptions
from svdjax.engine.faults import in_config
from svdjax.engine.nulls.options import Nulls
from svdjax.engine.temperature.job import Tempering
from svdjax.errors import InputError
from svdjax.options import SIDES
from svdjax.series import trajectory_names

MEASURES = ("vectors", "fits", "all")  # those of svdjax.spectral, which needs jax
STAGES = ("spectra", "nulls", "constructions", "probes", "evaluation", "temperature", "report")
_PAIR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._'+-]*")
_TAKEN = ("report.html", "sweep.json")


@dataclass(frozen=True)
class Settings:
    """How to compute; the leaves are explained in `svdjax.options`."""

    factorisation: str = "auto"
    measure: str = "fits"
    corner: int = 25
    split_fused: bool = False
    group_bytes: int = 64 * 2**20
    devices: int = 0
    full_hash: bool = False
    variants: tuple[str, ...] = ("all",)
    save_variants: bool = False
    text_limit: int = 0
    factor_cache: str = ""
    factor_cache_bytes: int = 20 * 2**30
    stages: tuple[str, ...] = ("spectra", "report")
    constructions: ConstructionOptions = field(default_factory=ConstructionOptions)
    nulls: Nulls = field(default_factory=Nulls)
    benchmarks: Mapping[str, str] = field(default_factory=dict)
    probes: Probing = field(default_factory=Probing)
    evaluation: Protocol = field(default_factory=Protocol)
    temperature: Tempering = field(default_factory=Tempering)
    decoder: ModelOptions = field(default_factory=ModelOptions)

    def problems(self) -> list[str]:
        """Everything that is wrong with the values, one sentence each."""
        found = []
        if self.corner < 1:
            found.append(f"config.corner={self.corner}: expected 1 or more")
        if self.group_bytes < 1:
            found.append(f"config.group_bytes={self.group_bytes}: expected a number of bytes")
        if self.devices < 0:
            found.append(f"config.devices={self.devices}: expected a count, or 0 for all")
        if self.measure not in MEASURES:
            found.append(f"config.measure={self.measure!r}: expected one of {', '.join(MEASURES)}")
        for leaf in ("text_limit", "factor_cache_bytes"):
            if getattr(self, leaf) < 0:
                found.append(f"config.{leaf}={getattr(self, leaf)}: expected 0 or more")
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or not self.stages:
            found.append(
                f"config.stages={tuple(self.stages)}: expected some of {', '.join(STAGES)}"
            )
        elif self.stages[0] != "spectra" or self.stages != tuple(
            stage for stage in STAGES if stage in self.stages
        ):
            found.append(
                f"config.stages={tuple(self.stages)}: expected spectra first, each stage once, in "
                f"the order {', '.join(STAGES)}"
            )
        if "nulls" in self.stages:
            found += in_config(self.nulls.null_faults(), "nulls")
        return found + self._construction_problems() + self._behaviour_problems()

    def _construction_problems(self) -> list[str]:
        found = []
        for name in self.variants:
            if name not in ("all", *VARIANTS):
                near = difflib.get_close_matches(str(name), VARIANTS, n=1)
                hint = (
                    f"did you mean {near[0]!r}?" if near else f"known: all, {', '.join(VARIANTS)}"
                )
                found.append(f"config.variants: there is no variant {name!r}; {hint}")
        if not self.variants:
            found.append("config.variants is empty: leave the constructions stage out instead")
        if "constructions" in self.stages:
            found += in_config(self.constructions.construction_faults(), "constructions")
        if self.split_fused and "constructions" in self.stages:
            found.append(
                "config.split_fused=True: constructions edit fused projections as a whole, as in "
                "the paper; leave one of the two out"
            )
        return found

    def _behaviour_problems(self) -> list[str]:
        found = []
        if self.reads_prompts:
            found += in_config(self.probes.probing_faults(), "probes")
            if not self.probes.prompts:
                found.append(
                    "config.probes.prompts is not given: name a file of prompts, or leave the "
                    "probes stage out"
                )
        if self.reads_questions:
            found += in_config(self.evaluation.protocol_faults(), "evaluation")
            if not self.benchmarks:
                found.append(
                    "config.benchmarks: none is given; name the data of one, such as "
                    "--config.benchmarks.gsm8k=FILE, or leave the evaluation stage out"
                )
        if self.runs_models or "temperature" in self.stages:
            found += in_config(self.decoder.model_faults(), "decoder")
        if "temperature" in self.stages:
            found += in_config(self.temperature.tempering_faults(), "temperature")
        return found

    @property
    def reads_prompts(self) -> bool:
        """Whether a stage lets models read prompts."""
        tempered = "temperature" in self.stages and bool(self.probes.prompts)
        return tempered or "probes" in self.stages

    @property
    def reads_questions(self) -> bool:
        """Whether a stage asks models questions."""
        asked = "temperature" in self.stages and self.temperature.questions != 0
        return (asked and bool(self.benchmarks)) or "evaluation" in self.stages

    @property
    def runs_models(self) -> bool:
        """Whether models are asked anything, and their prompts are wanted."""
        return self.reads_prompts or self.reads_questions

    @property
    def chosen_variants(self) -> tuple[Variant, ...]:
        """The variants that `variants` names, in the order of `VARIANTS`."""
        every = "all" in self.variants
        return tuple(one for one in VARIANTS.values() if every or one.name in self.variants)


@dataclass(frozen=True)
class PairSpec:
    """One pair as the config names it; see `svdjax.options.default_config`."""

    name: str
    base: str
    post: str
    paper: str | None = None
    other: str = ""
    text: str = ""
    constructed: bool = True

    @property
    def label(self) -> str:
        """The pair in an error: ``pair NAME``, or ``pair`` for one that bears this name."""
        return pair_label(self.name)


def pair_label(name: str) -> str:
    """``pair NAME``; ``pair`` where that is the name itself, as of two directories."""
    return name if name == "pair" else f"pair {name}"


@dataclass(frozen=True)
class SweepConfig:
    """A checked config.

    Attributes:
      name: the config's name.
      pairs: what to compare, in this order.
      settings: how.
      resolved: every leaf, JSON-able, as sweep.json records it.
      trajectory: labels of its points, where the pairs are those of one (`svdjax.series`).
    """

    name: str
    pairs: tuple[PairSpec, ...]
    settings: Settings
    resolved: dict[str, Any]
    trajectory: tuple[str, ...] = ()


def read_config(config: Any) -> SweepConfig:
    """Checks a `ConfigDict` (see `svdjax.options`) and returns it as dataclasses.

    One that has been read already is returned as it is.

    Raises:
      InputError: with every problem of the config in one line.
    """
    if isinstance(config, SweepConfig):
        return config
    leaves: Mapping[str, Any] = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    known = {name: leaves[name] for name in Settings.__dataclass_fields__ if name in leaves}
    for leaf in ("stages", "variants"):
        if leaf in known:
            value = known[leaf]
            known[leaf] = (value,) if isinstance(value, str) else tuple(value)
    sections = {
        "nulls": Nulls,
        "probes": Probing,
        "evaluation": Protocol,
        "decoder": ModelOptions,
    }
    known |= {name: kind(**(leaves.get(name) or {})) for name, kind in sections.items()}
    known["constructions"] = ConstructionOptions.read(leaves.get("constructions") or {})
    known["temperature"] = Tempering.read(leaves.get("temperature") or {})
    data = leaves.get("benchmarks") or {}
    known["benchmarks"] = {name: path for name, path in data.items() if path}
    settings = Settings(**known)
    problems = settings.problems()
    pairs = []
    for name, sides in (leaves.get("pairs") or {}).items():
        problems += _pair_problems(name, sides)
        given = {key: sides[key] for key in SIDES if sides.get(key) is not None}
        # What no stage looks at is not opened either.
        if "constructions" not in settings.stages:
            given |= {"other": "", "constructed": False}
        if "temperature" not in settings.stages and not given.get("constructed", True):
            given["text"] = ""
        pairs.append(PairSpec(name, sides.get("base"), sides.get("post"), **given))
    if not pairs:
        problems.append(
            "config.pairs is empty: expected at least one pair; configs/trajectory.py makes them "
            "of steps=DIRECTORY after its colon"
        )
    if problems:
        raise InputError(" | ".join(problems))
    trajectory = tuple(leaves.get("trajectory") or ())
    # A ConfigDict sorts its keys as words, 100 before 20.
    order = {name: place for place, name in enumerate(trajectory_names(trajectory))}
    pairs.sort(key=lambda pair: order.get(pair.name, len(order)))
    return SweepConfig(str(leaves["name"]), tuple(pairs), settings, plain(leaves), trajectory)


def _pair_problems(name: str, sides: Mapping[str, Any]) -> list[str]:
    found = []
    if not _PAIR_NAME.fullmatch(name) or name in _TAKEN:
        found.append(f"pair name {name!r} cannot name a directory: use letters, digits, - and _")
    for side in ("base", "post"):
        if not sides.get(side):
            found.append(
                f"{pair_label(name)}: {side} is not given; write {side}=DIRECTORY after the "
                f"config's colon, or --config.{side}=DIRECTORY"
            )
    return found
