"""Rows of a benchmark's data, with checked access to their fields."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from svdjax.errors import InputError, printable
from svdjax.text.lines import has_lone_surrogate


@dataclass(frozen=True)
class Row:
    """A row; what is missing or of another kind raises an `InputError` that names it.

    Attributes:
        values: Its fields.
        location: File and line, or dataset and row, for errors.
        form: Form of the benchmark's records, for errors.
    """

    values: Mapping[str, Any]
    location: str
    form: str

    def error(self, why: str) -> InputError:
        """Error that says why this row cannot be used."""
        return InputError(f"{self.location}: {printable(why, 300)}; expected {self.form}")

    def get(self, key: str) -> Any:
        """A field of any type."""
        if key not in self.values:
            keys = printable(", ".join(map(str, self.values)) or "none", 150)
            raise self.error(f'has no "{key}", but: {keys}')
        return self.values[key]

    def text(self, key: str) -> str:
        """A field that is a string and not blank."""
        return self.as_text(self.get(key), f'"{key}"')

    def as_text(self, value: Any, name: str) -> str:
        """A value that is a string and not blank; `name` is for errors."""
        if not isinstance(value, str):
            raise self.error(f"{name} is {type(value).__name__}, not a string")
        if not value.strip():
            raise self.error(f"{name} is blank")
        if has_lone_surrogate(value):
            raise self.error(f"{name} holds half a surrogate pair, which is no character")
        return value

    def as_option(self, value: Any, name: str) -> str:
        """A value that is a string, blank or not, or a number; `name` is for errors."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._number(value, name)
        return value if isinstance(value, str) and not value.strip() else self.as_text(value, name)

    def number_or_text(self, key: str) -> str:
        """A field that is a string or a finite number, which is written without exponent."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            if not isinstance(value, str):
                raise self.error(f'"{key}" is {type(value).__name__}, neither string nor number')
            return self.as_text(value, f'"{key}"').strip()
        return self._number(value, f'"{key}"')

    def _number(self, value: int | float, name: str) -> str:
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(f"{name} is {value}, which is not finite")
        return format(Decimal(repr(value)), "f")

    def letter(self, key: str, letters: str) -> str:
        """Letter of a field that names an option by letter, or by index as on the hub."""
        value = self.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(letters):
            return letters[value]
        if isinstance(value, str) and len(value.strip()) == 1 and value.strip() in letters:
            return value.strip()
        raise self.error(
            f'"{key}" is {printable(reprlib.repr(value), 60)}, not one of {", ".join(letters)}'
        )
