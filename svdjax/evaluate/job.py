"""Options of an evaluation, checked as far as they can be without jax."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax import fields
from svdjax.errors import InputError
from svdjax.evaluate.benchmarks import BENCHMARKS, SPLITS
from svdjax.fields import Spelling, as_flag, setting
from svdjax.text.options import AdapterOptions, DecoderOptions, DeviceOptions


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Sampling, repeats and choice of a benchmark's questions, by default as in the paper."""

    limit: int = setting(
        0, "Take the first questions of each benchmark only; 0 takes all.", least=0
    )
    repeats: int = setting(
        0,
        "How often to ask each question; 0: three times as in the paper, or once if greedy.",
        least=0,
    )
    temperature: float = setting(
        0.2, "0 takes the likeliest token.", least=0, expected="0 (greedy) or more"
    )
    top_p: float = setting(0.95, "Draw from the likeliest tokens that make up this probability.")
    max_new_tokens: int = setting(
        1024,
        "Most tokens of a response; fewer where the model's context ends before.",
        least=1,
    )
    batch_size: int = setting(32, "Sequences decoded together.", least=1)
    seed: int = setting(
        0,
        "Of the random draws, and of the order of the options in GPQA.",
        least=0,
        below=2**32,
    )
    split: str = setting("dev", "Which part of MMLU.", choices=SPLITS)

    def faults(self, spell: Spelling = as_flag) -> list[str]:
        """Faults of the values, one sentence each."""
        faults = fields.faults(self, spell)
        if not 0 < self.top_p <= 1:
            faults.append(f"{spell('top_p')}={self.top_p}: expected more than 0 and at most 1")
        if self.temperature == 0 and self.repeats > 1:
            faults.append(
                f"{spell('repeats')}={self.repeats}: with {spell('temperature')}=0 every repeat "
                "gives the same answers; leave it out"
            )
        return faults

    @property
    def rounds(self) -> int:
        """Number of repeats: `repeats`, by default the paper's 3, or 1 if greedy."""
        return self.repeats or (3 if self.temperature > 0 else 1)


@dataclass(frozen=True)
class EvaluateJob(EvaluationOptions, DecoderOptions, DeviceOptions, AdapterOptions):
    """One model on one benchmark: the flags of ``python -m svdjax.evaluate``.

    Raises:
        InputError: A value is wrong; it names every fault.
    """

    model: str = setting(help="Model: a directory, or a hub id org/name[@revision].")
    benchmark: str = setting(
        help="Which questions; the list above says what --data must be.", choices=BENCHMARKS
    )
    data: str = setting(
        help="The benchmark's official file or folder, or hf:org/name (needs datasets)."
    )
    out: str = setting(help="Directory for the results.")

    def __post_init__(self) -> None:
        if faults := self.faults():
            raise InputError(" | ".join(faults))
