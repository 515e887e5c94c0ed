"""What is wrong with the flags of a command, one sentence each; the same for a config's leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


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


def in_config(faults: Iterable[str], section: str) -> list[str]:
    """Faults of flags as those of the leaves ``config.<section>`` of the same names."""
    return [re.sub(r"--(?=[a-z])", f"config.{section}.", fault) for fault in faults]
