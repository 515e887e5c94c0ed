"""What a fingerprint is asked to be: the flags, checked as far as they can be without jax."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass

from svdjax import fields
from svdjax.errors import InputError
from svdjax.fields import setting
from svdjax.fingerprint.verdict import Thresholds


@dataclass(frozen=True)
class FingerprintJob:
    """One suspect held against one reference or several, and a third checkpoint.

    The flags of ``python -m svdjax.fingerprint``.

    Raises:
      InputError: the values are wrong; everything at once.
    """

    reference: str = setting(
        help="The model that may have an origin in common with the suspect: directory or hub id "
        "org/name[@revision]; or several, separated by commas: the nearest is named."
    )
    suspect: str = setting(
        help="The model that is asked about: directory or hub id org/name[@revision]."
    )
    out: str = setting(help="File for the verdict, such as verdict.json.")
    derived: float = setting(
        Thresholds.derived, "Largest distance at which the verdict is related."
    )
    unrelated: float = setting(
        Thresholds.unrelated,
        "Smallest distance at which it is unrelated; between the two it is undecided.",
    )
    p_value: float = setting(
        Thresholds.p_value, "Largest p-value with which the verdict may be related."
    )
    devices: int = setting(0, "Devices to factorise on; 0 takes all.", least=0)
    ancestor: str = setting(
        "",
        "A third checkpoint, known to be older than reference and suspect: which of the three lies "
        "between the others.",
    )

    def __post_init__(self) -> None:
        found = fields.faults(self)
        if self.out:
            found += self._out_faults()
        found += self._source_faults()
        if not 0 < self.derived <= self.unrelated:
            found.append(
                f"--derived={self.derived:g} and --unrelated={self.unrelated:g}: expected "
                "0 < derived <= unrelated, distances between 0 (same) and about 1 (unrelated)"
            )
        if not 0 < self.p_value < 1:
            found.append(f"--p_value={self.p_value:g}: expected a probability between 0 and 1")
        if found:
            raise InputError(" | ".join(found))

    @property
    def references(self) -> tuple[str, ...]:
        """``reference`` split at its commas, unless it is itself a directory."""
        if pathlib.Path(self.reference).expanduser().is_dir():
            return (self.reference,)
        return tuple(self.reference.split(","))

    @property
    def thresholds(self) -> Thresholds:
        """Where the words of the verdict change."""
        return Thresholds(self.derived, self.unrelated, self.p_value)

    @property
    def file(self) -> pathlib.Path:
        """Where the verdict is written."""
        return pathlib.Path(self.out).expanduser()

    @property
    def page(self) -> pathlib.Path:
        """The report beside it."""
        return self.file.with_suffix(".html")

    def _source_faults(self) -> list[str]:
        faults = []
        if self.reference and not all(self.references):
            faults.append(
                f"--reference={self.reference}: a name between commas is empty; expected "
                "directories or hub ids, separated by single commas"
            )
        if len(set(self.references)) < len(self.references):
            faults.append(f"--reference={self.reference}: names a checkpoint twice")
        if self.ancestor and len(self.references) > 1:
            faults.append(
                f"--ancestor={self.ancestor} with {len(self.references)} references: expected one "
                "reference; to ask which is nearest, name the ancestor among the references"
            )
        if self.ancestor and self.ancestor in (self.suspect, *self.references):
            faults.append(f"--ancestor={self.ancestor}: expected a third checkpoint")
        return faults

    def _out_faults(self) -> list[str]:
        try:
            file = self.file
            is_directory = file.is_dir() or self.out.endswith(os.sep)
        except (OSError, RuntimeError, ValueError) as error:
            return [f"--out={self.out}: cannot be used ({error})"]
        if is_directory:
            return [f"--out={self.out}: is a directory; expected a file such as verdict.json"]
        if file.suffix.lower() == ".html":
            return [
                f"--out={self.out}: the page will have this name; expected the name of the JSON "
                "file, such as verdict.json"
            ]
        return []
