"""A record of a benchmark, from wherever it was read, and its fields, checked."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from svdjax.errors import InputError, printable
from svdjax.text.reading import has_half_a_surrogate


@dataclass(frozen=True)
class Row:
    """A record.

    Attributes:
        values: Its fields.
        place: File and line, or dataset and row, for errors.
        wanted: The form of the benchmark's records, for errors.
    """

    values: Mapping[str, Any]
    place: str
    wanted: str

    def error(self, why: str) -> InputError:
        """The error that says why this record cannot be used."""
        return InputError(f"{self.place}: {printable(why, 300)}; expected {self.wanted}")

    def get(self, key: str) -> Any:
        """A field of any type.

        Raises:
            InputError: It is missing.
        """
        if key not in self.values:
            keys = printable(", ".join(map(str, self.values)) or "none", 150)
            raise self.error(f'has no "{key}", but: {keys}')
        return self.values[key]

    def text(self, key: str) -> str:
        """A field that is a string and not blank.

        Raises:
            InputError: It is missing, of another type or blank.
        """
        return self.as_text(self.get(key), f'"{key}"')

    def as_text(self, value: Any, what: str) -> str:
        """A value that is a string and not blank.

        Raises:
            InputError: It is of another type or blank.
        """
        if not isinstance(value, str):
            raise self.error(f"{what} is {type(value).__name__}, not a string")
        if not value.strip():
            raise self.error(f"{what} is blank")
        if has_half_a_surrogate(value):
            raise self.error(f"{what} holds half a surrogate pair, which is no character")
        return value

    def number_or_text(self, key: str) -> str:
        """A field that is a string or a finite number, which is written without exponent.

        Raises:
            InputError: It is missing or something else.
        """
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            if not isinstance(value, str):
                raise self.error(f'"{key}" is {type(value).__name__}, neither string nor number')
            return self.as_text(value, f'"{key}"').strip()
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(f'"{key}" is {value}, which is not finite')
        return format(Decimal(repr(value)), "f")

    def letter(self, key: str, letters: str) -> str:
        """A field that names an option: its letter, or its index as the hub has it.

        Raises:
            InputError: It is missing or names none of the options.
        """
        value = self.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(letters):
            return letters[value]
        if isinstance(value, str) and len(value.strip()) == 1 and value.strip() in letters:
            return value.strip()
        raise self.error(
            f'"{key}" is {printable(reprlib.repr(value), 60)}, not one of {", ".join(letters)}'
        )
