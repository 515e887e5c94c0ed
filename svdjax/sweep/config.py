"""Config of a sweep as dataclasses, with every fault of it reported at once.

Imports no jax: faults that need none are reported before it is loaded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax import fields
from svdjax.construct.options import ConstructionOptions
from svdjax.construct.recipes import VARIANTS, Variant
from svdjax.engine.pairs import PAIR_LEAVES, PairSpec, pair_label
from svdjax.errors import InputError, did_you_mean, missing_extra
from svdjax.evaluate.job import EvaluationOptions
from svdjax.fields import as_leaf, setting
from svdjax.nulls.options import NullOptions
from svdjax.probe.job import ProbeOptions
from svdjax.streaming import StreamOptions
from svdjax.sweep.stages import REGISTRY
from svdjax.sweep.trajectory import trajectory_names
from svdjax.temperature.options import TemperatureOptions
from svdjax.text.options import DecoderOptions

MEASURES = ("vectors", "fits", "all")  # those of svdjax.spectral, which needs jax
_PAIR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._'+-]*")
# Files and directories that a sweep writes beside those of the pairs.
_TAKEN = ("report.html", "sweep.json", "tables", "figures")


@dataclass(frozen=True)
class BenchmarkData:
    """Path of each benchmark's data, empty for those that are not asked."""

    gsm8k: str = setting("", "GSM8K for the evaluation stage: its file, folder or hf:org/name.")
    math500: str = setting("", "MATH-500: its file, folder or hf:org/name.")
    mmlu: str = setting("", "MMLU: its folder or hf:org/name; evaluation.split says which part.")
    gpqa: str = setting("", "GPQA: its file or hf:org/name.")
    commonsenseqa: str = setting("", "CommonsenseQA: its file or hf:org/name.")
    questions: str = setting("", "Questions of your own, a .jsonl of question and answer.")

    @property
    def given(self) -> dict[str, str]:
        """Paths that are not empty, by benchmark."""
        return {name: path for name, path in dataclasses.asdict(self).items() if path}


@dataclass(frozen=True)
class ReportOptions:
    """What the report stage writes beside its page and tables."""

    figures: str = setting(
        "none",
        "Also draw the paper's figures into the folders figures, in this format; the page draws "
        "its own.",
        choices=("none", "png", "svg", "pdf"),
        expected="none, png, svg or pdf",
    )


@dataclass(frozen=True)
class Settings(StreamOptions):
    """Leaves of a config beside its name and pairs."""

    factorisation: str = setting(
        "auto",
        "How matrices are factorised, always with an error estimate. auto: by Gram matrices in "
        "double precision, and where their estimate is above 1e-5 by SVDs in double precision. "
        "svd_f64: by those alone, about half as fast. svd_f32: by SVDs in single precision. "
        "gram_f64: what auto takes.",
    )
    measure: str = setting(
        "fits",
        "vectors: singular values and vectors (SVSM, NF, similarity). fits: also how well eq. 8 "
        "fits with pure scaling, with Q1 or Q2, and at best. all: every fit of eq. 8 and the "
        "residual rotations of eq. 13, which take about twice as long in all.",
        choices=MEASURES,
        expected=f"one of {', '.join(MEASURES)}",
    )
    corner: int = setting(
        25, "Leading singular directions whose similarity matrices are kept and drawn.", least=1
    )
    split_fused: bool = setting(
        False,
        "Split fused projections (phi3's qkv_proj and gate_up_proj) into their parts. "
        "The paper keeps them fused.",
    )
    experts: str = setting(
        "all",
        "Which experts of each layer of a mixture of experts are analysed: all, or a number, drawn "
        "by a fixed seed, the same in every layer, projection and side.",
    )
    group_bytes: int = setting(
        64 * 2**20,
        "Host bytes of one group of layers, both checkpoints as stored; at least a layer for each "
        "device. Smaller groups use less memory and lose less work when a sweep is killed.",
        least=1,
        expected="a number of bytes",
    )
    devices: int = setting(
        0,
        "Devices to spread the layers over; 0 takes all.",
        least=0,
        expected="a count, or 0 for all",
    )
    full_hash: bool = setting(
        False,
        "Fingerprint the input files by every byte instead of by header and sampled blocks.",
    )
    variants: tuple[str, ...] = setting(
        ("all",),
        "Which constructed models the constructions stage makes: all, or names such as replaced, "
        "restoration_V_SA, ablation_U_FFN_aligned (svdjax/construct/recipes.py lists them).",
    )
    save_variants: bool = setting(
        False,
        "Also write every constructed model as a checkpoint, to <pair>/models/<variant>.",
    )
    text_limit: int = setting(
        0, "Use at most this many of the held-out texts; 0 uses all.", least=0
    )
    factor_cache: str = setting(
        "",
        "Directory that keeps singular vectors for other sweeps of the same checkpoints. Default: "
        "they are kept in the workdir, and removed when the constructions are done.",
    )
    factor_cache_bytes: int = setting(20 * 2**30, "Most bytes of disk that they may take.", least=0)
    stages: tuple[str, ...] = setting(
        ("spectra", "report"),
        "What to do: spectra, nulls (what random signs of the same change would show), "
        "constructions (of every pair that names no constructed = False; judged on the pair's "
        "held-out text where it names one, beside controls), probes and evaluation (of base, post "
        "and, with constructions, all constructed models), temperature (scales singular values "
        "layer by layer), report.",
    )
    constructions: ConstructionOptions = field(default_factory=ConstructionOptions)
    nulls: NullOptions = field(default_factory=NullOptions)
    probes: ProbeOptions = field(default_factory=ProbeOptions)
    benchmarks: BenchmarkData = field(default_factory=BenchmarkData)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    temperature: TemperatureOptions = field(default_factory=TemperatureOptions)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    report: ReportOptions = field(default_factory=ReportOptions)

    def faults(self) -> list[str]:
        """Everything that is wrong with the values, one sentence each."""
        faults = fields.faults(self, as_leaf())
        if not re.fullmatch(r"all|[1-9]\d{0,5}", str(self.experts)):
            faults.append(f"config.experts={self.experts}: expected all, or a number of experts")
        known = ("spectra", *REGISTRY, "report")
        unknown = [stage for stage in self.stages if stage not in known]
        if unknown or not self.stages:
            hint = did_you_mean(unknown[0], known) if unknown else ""
            if hint:
                hint = f"; there is no {unknown[0]!r}, {hint.removeprefix('; ')}"
            faults.append(
                f"config.stages={tuple(self.stages)}: expected some of {', '.join(known)}{hint}"
            )
        elif self.stages[0] != "spectra" or self.stages != tuple(
            stage for stage in known if stage in self.stages
        ):
            faults.append(
                f"config.stages={tuple(self.stages)}: expected spectra first, each stage once, in "
                f"the order {', '.join(known)}"
            )
        faults += fields.faults(self.report, as_leaf("report"))
        if "nulls" in self.stages:
            faults += fields.faults(self.nulls, as_leaf("nulls"))
        faults += self._construction_faults() + self._behaviour_faults()
        return faults + self._missing_packages()

    def _missing_packages(self) -> list[str]:
        """Packages of extras that the stages need, and what to do."""
        missing = []
        if "report" in self.stages and self.report.figures != "none":
            what = f"config.report.figures={self.report.figures}: they are drawn with"
            missing.append(missing_extra("matplotlib", "figures", what))
        if self.reads_questions:
            missing.append(missing_extra("math_verify", "eval", "answers are compared by"))
        return [text for text in missing if text]

    def _construction_faults(self) -> list[str]:
        faults = []
        for name in self.variants:
            if name not in ("all", *VARIANTS):
                hint = did_you_mean(name, VARIANTS) or f"; known: all, {', '.join(VARIANTS)}"
                faults.append(f"config.variants: there is no variant {name!r}{hint}")
        if not self.variants:
            faults.append("config.variants is empty: leave the constructions stage out instead")
        if "constructions" in self.stages:
            faults += self.constructions.faults(as_leaf("constructions"))
            if self.split_fused:
                faults.append(
                    "config.split_fused=True: constructions edit fused projections as a whole, as "
                    "in the paper; leave one of the two out"
                )
            if self.experts != "all":
                faults.append(
                    f"config.experts={self.experts}: constructions edit every expert; leave one of "
                    "the two out"
                )
        return faults

    def _behaviour_faults(self) -> list[str]:
        faults = []
        if self.reads_prompts:
            faults += fields.faults(self.probes, as_leaf("probes"))
            if not self.probes.prompts:
                faults.append(
                    "config.probes.prompts is not given: name a file of prompts, or leave the "
                    "probes stage out"
                )
        if self.reads_questions:
            faults += self.evaluation.faults(as_leaf("evaluation"))
            if not self.benchmarks.given:
                faults.append(
                    "config.benchmarks: none is given; name the data of one, such as "
                    "--config.benchmarks.gsm8k=FILE, or leave the evaluation stage out"
                )
        if self.runs_models or "temperature" in self.stages:
            faults += fields.faults(self.decoder, as_leaf("decoder"))
        if "temperature" in self.stages:
            faults += self.temperature.faults(as_leaf("temperature"))
        return faults

    @property
    def expert_count(self) -> int:
        """Most experts of each layer that are analysed, 0 for all."""
        return 0 if self.experts == "all" else int(self.experts)

    @property
    def reads_prompts(self) -> bool:
        """Whether a stage runs models on prompts."""
        tempered = "temperature" in self.stages and bool(self.probes.prompts)
        return tempered or "probes" in self.stages

    @property
    def reads_questions(self) -> bool:
        """Whether a stage asks models the benchmarks' questions."""
        asked = "temperature" in self.stages and self.temperature.questions != 0
        return (asked and bool(self.benchmarks.given)) or "evaluation" in self.stages

    @property
    def runs_models(self) -> bool:
        """Whether a stage runs models on prompts or questions."""
        return self.reads_prompts or self.reads_questions

    @property
    def chosen_variants(self) -> tuple[Variant, ...]:
        """Variants that `variants` names, in the order of `VARIANTS`."""
        names = VARIANTS if "all" in self.variants else self.variants
        return tuple(variant for variant in VARIANTS.values() if variant.name in names)


@dataclass(frozen=True)
class SweepConfig:
    """A checked config.

    Attributes:
        name: Name of the config.
        pairs: Pairs to compare, in this order.
        settings: Settings of the computation.
        resolved: Every leaf, JSON-able, as sweep.json records it.
        trajectory: Labels of the points, where the pairs are those of a trajectory.
    """

    name: str
    pairs: tuple[PairSpec, ...]
    settings: Settings
    resolved: dict[str, Any]
    trajectory: tuple[str, ...] = ()


def read_config(config: Any) -> SweepConfig:
    """Checked dataclasses of a `ConfigDict` (`svdjax.options`); a `SweepConfig` is returned as is.

    Raises:
        InputError: With every fault of the config in one line.
    """
    if isinstance(config, SweepConfig):
        return config
    from svdjax.atomic import plain

    leaves: Mapping[str, Any] = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    settings = fields.from_leaves(
        Settings, {name: leaves[name] for name in Settings.__dataclass_fields__ if name in leaves}
    )
    faults = settings.faults()
    pairs = []
    for name, sides in (leaves.get("pairs") or {}).items():
        faults += _pair_faults(name, sides)
        given = {key: sides[key] for key in PAIR_LEAVES if sides.get(key) is not None}
        # Inputs that no stage reads are not opened.
        if "constructions" not in settings.stages:
            given |= {"other": "", "constructed": False}
        if "temperature" not in settings.stages and not given.get("constructed", True):
            given["text"] = ""
        pairs.append(PairSpec(name, sides.get("base"), sides.get("post"), **given))
    if not _PAIR_NAME.fullmatch(str(leaves["name"])):
        faults.append(
            f"config.name={leaves['name']!r} cannot name a directory: use letters, digits, - and _"
        )
    if not pairs:
        faults.append(
            "config.pairs is empty: expected at least one pair; configs/trajectory.py makes them "
            "of steps=DIRECTORY after its colon"
        )
    if faults:
        raise InputError(" | ".join(faults))
    trajectory = tuple(leaves.get("trajectory") or ())
    # A ConfigDict sorts its keys as words, 100 before 20.
    order = {name: index for index, name in enumerate(trajectory_names(trajectory))}
    pairs.sort(key=lambda pair: order.get(pair.name, len(order)))
    return SweepConfig(str(leaves["name"]), tuple(pairs), settings, plain(leaves), trajectory)


def _pair_faults(name: str, sides: Mapping[str, Any]) -> list[str]:
    faults = []
    if not _PAIR_NAME.fullmatch(name) or name in _TAKEN:
        faults.append(f"pair name {name!r} cannot name a directory: use letters, digits, - and _")
    for side in ("base", "post"):
        if not sides.get(side):
            faults.append(
                f"{pair_label(name)}: {side} is not given; write {side}=DIRECTORY after the "
                f"config's colon, or --config.{side}=DIRECTORY"
            )
    return faults
