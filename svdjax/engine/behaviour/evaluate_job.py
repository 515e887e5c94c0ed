"""What an evaluation is asked to be: the flags, checked as far as they can be without jax."""

from __future__ import annotations

import math
from dataclasses import dataclass

from svdjax.behaviour.benchmarks import BENCHMARKS, SPLITS
from svdjax.engine.behaviour.model_options import ModelOptions
from svdjax.engine.faults import choice_faults, least_faults, missing_faults
from svdjax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the questions of a benchmark are asked, by default as in the paper."""

    limit: int = 0
    repeats: int = 0
    temperature: float = 0.2
    top_p: float = 0.95
    max_new_tokens: int = 1024
    batch_size: int = 32
    seed: int = 0
    split: str = "dev"

    def protocol_faults(self) -> list[str]:
        """Everything that is wrong with it, one sentence each."""
        least = {"limit": 0, "repeats": 0, "max_new_tokens": 1, "batch_size": 1, "seed": 0}
        found = least_faults(self, least) + choice_faults(self, {"split": SPLITS})
        if self.seed >= 2**32:
            found.append(f"--seed={self.seed}: expected less than 2^32")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            found.append(f"--temperature={self.temperature}: expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            found.append(f"--top_p={self.top_p}: expected more than 0 and at most 1")
        if self.temperature == 0 and self.repeats > 1:
            found.append(
                f"--repeats={self.repeats}: with --temperature=0 every repeat gives the same "
                "answers; leave it out"
            )
        return found

    @property
    def rounds(self) -> int:
        """How often every question is asked: `repeats`, by default the paper's 3, greedy once."""
        return self.repeats or (3 if self.temperature > 0 else 1)


@dataclass(frozen=True)
class EvaluateJob(Protocol, ModelOptions):
    """One model on one benchmark.

    The flags of ``python -m svdjax.evaluate`` have the fields' names and explain them.

    Raises:
      InputError: the values are wrong; everything at once.
    """

    model: str
    benchmark: str
    data: str
    out: str

    def __post_init__(self) -> None:
        found = missing_faults(self, ("model", "benchmark", "data", "out"))
        found += self.protocol_faults()
        if self.benchmark:
            found += choice_faults(self, {"benchmark": BENCHMARKS})
        found += self.model_faults()
        if found:
            raise InputError(" | ".join(found))
