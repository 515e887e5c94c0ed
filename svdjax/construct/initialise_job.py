"""What an initialisation is asked to be: the flags, checked as far as they can be without jax."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax import fields
from svdjax.construct.job import (
    BASE,
    CONSTRUCTION,
    DTYPE,
    DTYPES,
    LAYERS,
    MODULES,
    OUT,
    OVERWRITE,
    devices_setting,
    group_bytes_setting,
    place_faults,
)
from svdjax.construct.selection import Layers, Modules
from svdjax.errors import InputError, printable
from svdjax.fields import setting

INITIALISATIONS = {
    "lora": "LoRA factors from singular components as a PEFT adapter, the residual as its base",
    "scaled": "all singular values of W multiplied by a factor",
}
"""Constructions of a single model, by name: what each does."""


@dataclass(frozen=True)
class InitialiseJob:
    """One initialisation of one checkpoint: flags of ``python -m svdjax.construct``.

    Raises:
      InputError: the values are wrong or do not go together; everything at once.
    """

    base: str = setting(help=BASE)
    out: str = setting(help=OUT)
    construction: str = setting(help=CONSTRUCTION)
    modules: str = setting("", MODULES)
    layers: str = setting("", LAYERS)
    rank: int = setting(0, "lora: how many singular components to take out.")
    components: str = setting(
        "top", "lora: which ones: top, middle, bottom, or the number of the first, from 0."
    )
    factor: str = setting(
        "",
        'scaled: a number, or a JSON file {"o_proj": 1.4, "q_proj": [1.0, 1.1, ...]} with a '
        "number, or one for each layer of the model.",
    )
    dtype: str = setting("", DTYPE, choices=DTYPES, expected=", ".join(DTYPES))
    overwrite: bool = setting(False, OVERWRITE)
    group_bytes: int = group_bytes_setting()
    devices: int = devices_setting()
    chosen: Modules = field(init=False)
    chosen_layers: Layers = field(init=False)
    factors: Any = field(init=False)

    def __post_init__(self) -> None:
        faults: list[str] = []
        lora = self.construction == "lora"
        made: dict[str, Any] = {
            "chosen": lambda: Modules(self.modules or ("all" if lora else "o_proj")),
            "chosen_layers": lambda: Layers.parse(self.layers),
            "factors": lambda: None if lora else read_factor(self.factor),
        }
        for name, make in made.items():
            try:
                object.__setattr__(self, name, make())
            except InputError as error:
                faults.append(str(error))
        faults += fields.faults(self)
        if lora and self.rank < 1:
            faults.append(f"--rank={self.rank}: expected how many singular components to take out")
        if lora and self.factor:
            faults.append(f"--factor={self.factor}: only --construction=scaled has a factor")
        if not lora and self.rank:
            faults.append(f"--rank={self.rank}: only --construction=lora has a rank")
        if self.out:
            faults += place_faults(self.out, {"base": self.base})
        if faults:
            raise InputError(" | ".join(faults))

    @property
    def stored(self) -> str:
        """Storage dtype of the result, empty for the model's own.

        Float32 unless asked otherwise for LoRA: what rounding takes from the residual no adapter
        gives back.
        """
        return self.dtype or ("float32" if self.construction == "lora" else "")


def read_factor(text: str) -> float | dict[str, Any]:
    """Reads a number, or the path of a file {"o_proj": 1.4, "q_proj": [1.0, 1.1, ...]}.

    A list has one factor for each layer of the model.

    Raises:
      InputError: it is neither.
    """
    try:
        number = float(text)
    except ValueError:
        try:
            path = pathlib.Path(text).expanduser()
            there = bool(text) and path.is_file()
        except (OSError, RuntimeError, ValueError):
            path, there = pathlib.Path(text), False
        if not there:
            raise InputError(
                f"--factor={text}: expected a number, or a JSON file such as "
                '{"o_proj": 1.4} or {"q_proj": [1.0, 1.1]} with one number for each layer'
            ) from None
        # Not before: numpy comes with it, and is not loaded where memory is too short for it.
        from svdjax.checkpoint.small_json import read_object

        return {
            name: [_positive(each, f"{path}: factor of {name}") for each in value]
            if isinstance(value, list)
            else _positive(value, f"{path}: factor of {name}")
            for name, value in read_object(path).items()
        }
    return _positive(number, f"--factor={text}")


def _positive(value: Any, what: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise InputError(f"{what} is {printable(repr(value), 60)}, expected a number above 0")
    return float(value)


def mapped(factors: float | Mapping[str, Any]) -> Mapping[str, Any]:
    """The factors by projection, empty where one number serves all."""
    return factors if isinstance(factors, Mapping) else {}
