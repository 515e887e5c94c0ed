"""The steps of a training run: where they lie, and which pairs they make.

A trajectory has points 0, 1, 2, ...: what the run started from and its steps, by their number.
Every point is compared with the first and with the one before it.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from svdjax.errors import InputError

BASE = "base"
"""Label of the point that a run started from, where that is given beside the steps."""

_MARKS = (
    *("config.json", "model.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "_CHECKPOINT_METADATA", "_METADATA", "default/_METADATA"),
)
_STEP = re.compile(r"(?P<stem>.*?)(?P<number>\d{1,18})")


def find_steps(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Find the checkpoints of a run.

    Steps are directories whose names end in a number (``step-100``, ``checkpoint-200``, ``300``)
    and that hold something of a checkpoint: of Hugging Face, an adapter, or what Orbax wrote.
    Everything else is left alone.

    Args:
        directory: That of the run.

    Returns:
        Their paths by number ("100"), in the order of the numbers.

    Raises:
        InputError: There is no such directory, there are none in it, two have the same number, or
            one beside them is named alike and holds nothing of a checkpoint.
    """
    home = pathlib.Path(directory).expanduser()
    try:
        entries = sorted(entry for entry in home.iterdir() if entry.is_dir())
    except OSError as error:
        raise InputError(f"steps={directory} cannot be read: {error.strerror}") from None
    found: dict[int, pathlib.Path] = {}
    empty: list[tuple[str, pathlib.Path]] = []
    stems = set()
    for entry in entries:
        match = _STEP.fullmatch(entry.name)
        # Orbax names so what it has not finished.
        if match is None or "orbax-checkpoint-tmp" in entry.name:
            continue
        number = int(match["number"])
        if not any((entry / mark).is_file() for mark in _MARKS):
            empty.append((match["stem"], entry))
            continue
        stems.add(match["stem"])
        if number in found:
            raise InputError(
                f"steps={directory}: {found[number].name} and {entry.name} are both step {number}; "
                "expected each number once"
            )
        found[number] = entry
    for stem, entry in empty:
        if stem in stems:
            raise InputError(
                f"{entry}: named like the steps beside it, but holds no checkpoint; finish or "
                "remove it"
            )
    if not found:
        raise InputError(
            f"steps={directory}: no checkpoint in it whose directory's name ends in a number; "
            "expected such as step-100, checkpoint-200 or 300"
        )
    return {str(number): str(path) for number, path in sorted(found.items())}


def trajectory_pairs(points: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The pairs of a trajectory.

    Args:
        points: Directories by label, in order.

    Returns:
        ``{"base", "post"}`` by name, as `svdjax.options.default_config` takes it.
    """
    return {
        name: {"base": points[first], "post": points[second]}
        for name, (first, second) in _pairs(list(points)).items()
    }


def trajectory_names(labels: Sequence[str]) -> list[str]:
    """Names of the pairs: first to each, then each to its next, none of them twice."""
    return list(_pairs(labels))


def _pairs(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {pair_name(*pair): pair for pair in from_start(labels) + step_to_step(labels)}


def from_start(labels: Sequence[str]) -> list[tuple[str, str]]:
    """The first point with every later one."""
    return [(first, label) for first in labels[:1] for label in labels[1:]]


def step_to_step(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Every point with the next."""
    return list(zip(labels, labels[1:]))


def pair_name(first: str, second: str) -> str:
    """What the pair of two points is called."""
    return f"{first}-{second}"


def positions(labels: Sequence[str]) -> list[int]:
    """Where the points lie on an axis of steps: the base at 0, or before a step 0."""
    numbers = [int(label) for label in labels if label != BASE]
    start = 0 if min(numbers, default=1) > 0 else min(numbers) - 1
    return [start if label == BASE else int(label) for label in labels]
