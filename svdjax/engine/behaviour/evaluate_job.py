"""What an evaluation is asked to be: the flags, checked as far as they can be without jax."""

from __future__ import annotations

import math
from dataclasses import dataclass

from svdjax.errors import InputError

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class EvaluateJob:
    """One model on one benchmark.

    The flags of ``python -m svdjax.evaluate`` have the fields' names and explain them.

    Raises:
      InputError: the values are wrong; everything at once.
    """

    model: str
    benchmark: str
    data: str
    out: str
    limit: int = 0
    repeats: int = 0
    temperature: float = 0.2
    top_p: float = 0.95
    max_new_tokens: int = 1024
    batch_size: int = 32
    seed: int = 0
    split: str = "dev"
    system: str | None = None
    prompt_format: str = "chat"
    dtype: str = "float32"
    devices: int = 0
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        found = [
            f"--{name} is not given"
            for name in ("model", "benchmark", "data", "out")
            if not getattr(self, name)
        ]
        for name, least in (
            ("limit", 0),
            ("repeats", 0),
            ("max_new_tokens", 1),
            ("batch_size", 1),
            ("seed", 0),
            ("devices", 0),
            ("tensor_parallel", 1),
        ):
            if getattr(self, name) < least:
                found.append(f"--{name}={getattr(self, name)}: expected {least} or more")
        if self.seed >= 2**32:
            found.append(f"--seed={self.seed}: expected less than 2^32")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            found.append(f"--temperature={self.temperature}: expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            found.append(f"--top_p={self.top_p}: expected more than 0 and at most 1")
        if self.dtype not in DTYPES:
            found.append(f"--dtype={self.dtype}: expected {' or '.join(DTYPES)}")
        if self.temperature == 0 and self.repeats > 1:
            found.append(
                f"--repeats={self.repeats}: with --temperature=0 every repeat gives the same "
                "answers; leave it out"
            )
        if found:
            raise InputError(" | ".join(found))

    @property
    def rounds(self) -> int:
        """How often every question is asked: `repeats`, by default the paper's 3, greedy once."""
        return self.repeats or (3 if self.temperature > 0 else 1)
