"""The factor alpha' of eq. 9: by name, as a number, or from a file. Imports no jax."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from svdjax.errors import InputError, did_you_mean

AUTO, AUTO_RAW = "auto", "auto_raw"


@dataclass(frozen=True)
class Alpha:
    """Where alpha' comes from.

    Attributes:
        source: ``auto`` (Table 4: the pair's own mean over the top 90 %, rounded to one decimal),
            ``auto_raw`` (that mean, unrounded), or what was given.
        values: A number for every projection, or a mapping of projections; None for the first two.
    """

    source: str
    values: float | Mapping[str, float] | None = None

    @property
    def measured(self) -> bool:
        """Whether it follows from the pair's own singular values."""
        return self.values is None

    @classmethod
    def parse(cls, text: str) -> Alpha:
        """Reads ``auto``, ``auto_raw``, a number, or the path of a file {"q_proj": 0.9, ...}.

        Raises:
            InputError: It is none of these.
        """
        if text in (AUTO, AUTO_RAW):
            return cls(text)
        given = number_or_file(text)
        if given is None:
            raise InputError(
                f"alpha {text!r}: expected auto, auto_raw, a number, or a JSON file such as "
                '{"q_proj": 0.9}; there is no such file' + did_you_mean(text, (AUTO, AUTO_RAW))
            )
        if not isinstance(given, pathlib.Path):
            return cls(text, _positive(given, f"alpha {text}"))
        # Not before: numpy comes with it, and is not loaded where memory is too short for it.
        from svdjax.checkpoint.small_json import read_object, shown

        values = {}
        for name, value in read_object(given).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{given}: alpha of {name} is {shown(value)}, expected a number")
            values[name] = _positive(float(value), f"{given}: alpha of {name}")
        return cls(str(given), values)

    def of(self, projections: Sequence[str]) -> dict[str, float]:
        """Given alpha' by projection.

        Raises:
            InputError: The file lacks one of them, or names something else.
        """
        assert self.values is not None
        if not isinstance(self.values, Mapping):
            return dict.fromkeys(projections, self.values)
        missing = [name for name in projections if name not in self.values]
        unknown = [name for name in self.values if name not in projections]
        if missing or unknown:
            faults = [f"no alpha for {', '.join(missing[:8])}"] * bool(missing)
            faults += [f"{', '.join(unknown[:8])} is not among them"] * bool(unknown)
            raise InputError(
                f"{self.source}: {'; '.join(faults)}; expected one number for each of "
                f"{', '.join(projections[:12])}"
            )
        return {name: self.values[name] for name in projections}


def number_or_file(text: str) -> float | pathlib.Path | None:
    """What a text is: a number, or the path of a file; None where it is neither."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        path = pathlib.Path(text).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _positive(value: float, what: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{what} is {value}, expected a finite number above 0")
    return value
