"""The factor alpha' of eq. 9: by name, as a number, or from a file. Imports no jax."""

from __future__ import annotations

import difflib
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from svdjax.errors import InputError

AUTO, AUTO_RAW = "auto", "auto_raw"


@dataclass(frozen=True)
class Alpha:
    """Where alpha' comes from.

    Attributes:
      source: ``auto`` (Table 4: the pair's own mean over the top 90 %, rounded to one decimal),
        ``auto_raw`` (that mean, unrounded), or what was given.
      values: a number for every projection, or a mapping of projections; None for the first two.
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
          InputError: it is none of these.
        """
        if text in (AUTO, AUTO_RAW):
            return cls(text)
        try:
            return cls(text, _positive(float(text), f"alpha {text}"))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
        try:
            path = pathlib.Path(text).expanduser()
            there = path.is_file()
        except (OSError, RuntimeError, ValueError):
            path, there = pathlib.Path(text), False
        if not there:
            near = difflib.get_close_matches(text, (AUTO, AUTO_RAW), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"alpha {text!r}: expected auto, auto_raw, a number, or a JSON file such as "
                f'{{"q_proj": 0.9}}; there is no such file{hint}'
            )
        # Not before: numpy comes with it, and is not loaded where memory is too short for it.
        from svdjax.checkpoint.small_json import read_object, shown

        values = {}
        for name, value in read_object(path).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{path}: alpha of {name} is {shown(value)}, expected a number")
            values[name] = _positive(float(value), f"{path}: alpha of {name}")
        return cls(str(path), values)

    def of(self, projections: Sequence[str]) -> dict[str, float]:
        """Given alpha' by projection.

        Raises:
          InputError: the file lacks one of them, or names something else.
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


def _positive(value: float, what: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{what} is {value}, expected a finite number above 0")
    return value
