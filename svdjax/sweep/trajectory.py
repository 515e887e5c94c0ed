"""Steps of a training run, and the pairs that they make.

The points of a trajectory are the model that the run started from and its steps, by number. Every
point is compared with the first and with the previous one.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from svdjax.errors import InputError

BASE = "base"
"""Label of the model that a run started from, where it is given beside the steps."""

_MARKS = (
    *("config.json", "model.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "_CHECKPOINT_METADATA", "_METADATA", "default/_METADATA"),
)
_STEP = re.compile(r"(?P<stem>.*?)(?P<number>\d{1,18})")


def find_steps(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Checkpoints of a run.

    Steps are directories whose names end in a number (``step-100``, ``checkpoint-200``, ``300``)
    and that hold files of a checkpoint: of Hugging Face, an adapter's, or Orbax's.

    Args:
        directory: The run's directory.

    Returns:
        Paths by number ("100"), in the order of the numbers.

    Raises:
        InputError: There is no such directory, there are no steps in it, two have the same number,
            or a directory is named like a step and holds no checkpoint.
    """
    try:
        entries = sorted(e for e in pathlib.Path(directory).expanduser().iterdir() if e.is_dir())
    except OSError as error:
        raise InputError(f"steps={directory} cannot be read: {error.strerror}") from None
    steps: dict[int, pathlib.Path] = {}
    empty: list[tuple[str, pathlib.Path]] = []
    stems = set()
    for entry in entries:
        match = _STEP.fullmatch(entry.name)
        # Orbax's name of an unfinished checkpoint.
        if match is None or "orbax-checkpoint-tmp" in entry.name:
            continue
        number = int(match["number"])
        if not any((entry / mark).is_file() for mark in _MARKS):
            empty.append((match["stem"], entry))
            continue
        stems.add(match["stem"])
        if number in steps:
            raise InputError(
                f"steps={directory}: {steps[number].name} and {entry.name} are both step {number}; "
                "expected each number once"
            )
        steps[number] = entry
    for stem, entry in empty:
        if stem in stems:
            raise InputError(
                f"{entry}: named like the steps beside it, but holds no checkpoint; finish or "
                "remove it"
            )
    if not steps:
        raise InputError(
            f"steps={directory}: no checkpoint in it whose directory's name ends in a number; "
            "expected such as step-100, checkpoint-200 or 300"
        )
    return {str(number): str(path) for number, path in sorted(steps.items())}


def read_points(
    directory: str | os.PathLike[str], base: str = "", every: int = 1
) -> dict[str, str]:
    """Points of a trajectory.

    Args:
        directory: The run's directory, as `find_steps` takes it.
        base: What the run started from, where that is not among the steps.
        every: Distance of the steps that are taken, beside the first and the last.

    Returns:
        Directories by label, in order.

    Raises:
        InputError: As `find_steps`, or there is only one point.
    """
    steps = find_steps(directory)
    labels = list(steps)
    chosen = dict.fromkeys([*labels[::every], labels[-1]])
    points = ({BASE: base} if base else {}) | {label: steps[label] for label in chosen}
    if len(points) < 2:
        raise InputError(
            f"steps={directory}: one step, {labels[0]}; expected two, or base=DIRECTORY beside"
        )
    return points


def trajectory_pairs(points: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Pairs of a trajectory.

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
    """Names of the pairs: first to each, then each to the next, without duplicates."""
    return list(_pairs(labels))


def _pairs(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {pair_name(*pair): pair for pair in from_start(labels) + step_to_step(labels)}


def from_start(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of the first point with every later one."""
    return [(first, label) for first in labels[:1] for label in labels[1:]]


def step_to_step(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of every point with the next."""
    return list(zip(labels, labels[1:]))


def pair_name(first: str, second: str) -> str:
    """Name of the pair of two points."""
    return f"{first}-{second}"


def positions(labels: Sequence[str]) -> list[int]:
    """Positions of the points on an axis of steps: the base at 0, or before a step 0."""
    numbers = [int(label) for label in labels if label != BASE]
    start = 0 if min(numbers, default=1) > 0 else min(numbers) - 1
    return [start if label == BASE else int(label) for label in labels]
