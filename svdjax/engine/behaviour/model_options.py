"""How a model is asked and run, whatever for: the part that the commands share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PROMPT_FORMATS = ("chat", "plain")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Flags that every command which runs a model has; `svdjax.model_flags` explains them."""

    system: str | None = None
    prompt_format: str = "chat"
    dtype: str = "float32"
    devices: int = 0
    tensor_parallel: int = 1

    def model_faults(self) -> list[str]:
        """Everything that is wrong with them, one sentence each."""
        return least_faults(self, {"devices": 0, "tensor_parallel": 1}) + choice_faults(
            self, {"prompt_format": PROMPT_FORMATS, "dtype": DTYPES}
        )


def in_config(faults: Iterable[str], section: str) -> list[str]:
    """Faults of flags as those of the leaves ``config.<section>`` of the same names."""
    return [re.sub(r"--(?=[a-z])", f"config.{section}.", fault) for fault in faults]


def missing_faults(job: Any, names: Iterable[str]) -> list[str]:
    """Which of the named fields are empty."""
    return [f"--{name} is not given" for name in names if not getattr(job, name)]


def least_faults(job: Any, bounds: dict[str, int]) -> list[str]:
    """Which fields are below their bound."""
    return [
        f"--{name}={getattr(job, name)}: expected {least} or more"
        for name, least in bounds.items()
        if getattr(job, name) < least
    ]


def choice_faults(job: Any, choices: dict[str, Iterable[str]]) -> list[str]:
    """Which fields are none of their choices."""
    return [
        f"--{name}={getattr(job, name)}: expected {' or '.join(known)}"
        for name, known in choices.items()
        if getattr(job, name) not in known
    ]
