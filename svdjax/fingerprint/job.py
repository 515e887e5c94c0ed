"""Settings of a fingerprint, checked as far as they can be without jax."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass

from svdjax import fields
from svdjax.errors import InputError
from svdjax.fields import setting
from svdjax.fingerprint.verdict import Thresholds
from svdjax.streaming import StreamOptions
from svdjax.text.options import AdapterOptions


@dataclass(frozen=True)
class FingerprintJob(StreamOptions, AdapterOptions):
    """A suspect, one reference or several, an ancestor: ``python -m svdjax.fingerprint``'s flags.

    Raises:
        InputError: Values are wrong; every fault at once.
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
        faults = fields.faults(self)
        if self.out:
            faults += self._out_faults()
        faults += self._source_faults()
        if not 0 < self.derived <= self.unrelated:
            faults.append(
                f"--derived={self.derived:g} and --unrelated={self.unrelated:g}: expected "
                "0 < derived <= unrelated, distances between 0 (same) and about 1 (unrelated)"
            )
        if not 0 < self.p_value < 1:
            faults.append(f"--p_value={self.p_value:g}: expected a probability between 0 and 1")
        if faults:
            raise InputError(" | ".join(faults))

    @property
    def references(self) -> tuple[str, ...]:
        """``reference`` split at its commas, unless it is itself a directory."""
        if pathlib.Path(self.reference).expanduser().is_dir():
            return (self.reference,)
        return tuple(self.reference.split(","))

    @property
    def thresholds(self) -> Thresholds:
        """Distances and p-value at which the verdict changes."""
        return Thresholds(self.derived, self.unrelated, self.p_value)

    @property
    def file(self) -> pathlib.Path:
        """File of the verdict."""
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
