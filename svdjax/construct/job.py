"""What an edit of a checkpoint is asked to be: flags, checked as far as they can be without jax."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax import fields
from svdjax.construct.alpha import AUTO, Alpha, number_or_file
from svdjax.construct.controls import CONTROLS
from svdjax.construct.recipes import SIGNS, Recipe, get_recipe
from svdjax.construct.selection import Layers, Modules
from svdjax.errors import InputError, printable
from svdjax.fields import setting
from svdjax.streaming import StreamOptions

DTYPES = ("bfloat16", "float16", "float32")
INITIALISATIONS = {
    "lora": "LoRA factors from singular components as a PEFT adapter, the residual as its base",
    "scaled": "all singular values of W multiplied by a factor",
}
"""Constructions of a single model, by name: what each does."""


@dataclass(frozen=True, kw_only=True)
class EditJob(StreamOptions):
    """What constructions of two models and initialisations of one have in common.

    Attributes:
        chosen: The linear layers that `modules` names.
        chosen_layers: The layers that `layers` names.

    Raises:
        InputError: The values are wrong or do not go together; everything at once.
    """

    base: str = setting(help="Base model: a directory, or a hub id org/name[@rev].")
    out: str = setting(help="Directory to write.")
    construction: str = setting(help="Which construction; the list above has the formulas.")
    modules: str = setting(
        "",
        "Which linear layers: self_attn, mlp, all, a projection such as o_proj, or a regular "
        "expression that is searched for in names like self_attn.q_proj. Defaults to all for eq9 "
        "and eq14, as in the paper, and for lora, to o_proj for scaled; must be named for the "
        "others, which the paper applies to attention or to the MLP.",
    )
    layers: str = setting("", "Which layers, counted from 0: 0-3,7,20- for example. Default: all.")
    dtype: str = setting(
        "",
        "Storage dtype of the result; default: that of the edited model, for lora float32.",
        choices=DTYPES,
        expected=f"{', '.join(DTYPES)}, or nothing for the model's own",
    )
    overwrite: bool = setting(False, "Replace a checkpoint that is there already.")
    group_bytes: int = setting(
        64 * 2**20,
        "Host bytes of one group of layers, both checkpoints as stored. Peak memory is about four "
        "of these, what one matrix pair in work takes on each CPU device, and 0.5 GB.",
        least=1,
        expected="a number of bytes",
    )
    devices: int = setting(
        0,
        "Devices to spread the layers over; 0 takes all.",
        least=0,
        expected="a count, or 0 for all",
    )
    chosen: Modules = field(init=False)
    chosen_layers: Layers = field(init=False)

    def __post_init__(self) -> None:
        faults: list[str] = []
        for name, parse in self._parsers().items():
            try:
                object.__setattr__(self, name, parse())
            except InputError as error:
                faults.append(str(error))
        faults += [*self._mismatches(), *fields.faults(self), *self._place_faults()]
        if faults:
            raise InputError(" | ".join(faults))

    @property
    def stored(self) -> str:
        """Storage dtype of the result, empty for the model's own."""
        return self.dtype

    def _parsers(self) -> dict[str, Callable[[], Any]]:
        """What is made of the flags, by attribute; each may raise `InputError`."""
        return {"chosen_layers": lambda: Layers.parse(self.layers)}

    def _mismatches(self) -> list[str]:
        """What was given and does not enter, or enters and was not given."""
        raise NotImplementedError

    def _place_faults(self) -> list[str]:
        """Whether the result lies in, on or around what it is made of; hub ids lie elsewhere."""
        if not self.out:
            return []
        try:
            place = pathlib.Path(self.out).expanduser().resolve()
            for side in ("base", "post", "other"):
                source = getattr(self, side, "")
                path = pathlib.Path(source).expanduser()
                if not source or not path.is_dir():
                    continue
                path = path.resolve()
                if place == path or place in path.parents or path in place.parents:
                    return [
                        f"--out={self.out} lies on, in or around --{side}={source}: give a "
                        "directory of its own"
                    ]
        except (OSError, RuntimeError, ValueError) as error:
            return [f"--out={self.out} cannot be used: {error}"]
        return []


@dataclass(frozen=True, kw_only=True)
class ConstructJob(EditJob):
    """One construction of one checkpoint: flags of ``python -m svdjax.construct``.

    Attributes:
        recipe: The construction.
        factors: Where alpha' comes from.

    Raises:
        InputError: The values are wrong or do not go together; everything at once.
    """

    post: str = setting(help="Post-trained model that is edited: a directory or hub id.")
    other: str = setting("", "Another post model of the same base, for eq12: directory or hub id.")
    alpha: str = setting(
        AUTO,
        "alpha' of eq9: auto (mean scaling of the top 90 % of the singular values over all layers, "
        "rounded to one decimal, as in the paper's Table 4), auto_raw (not rounded), a number, or "
        'a JSON file {"q_proj": 0.9, ...}.',
    )
    signs: str = setting(
        "raw",
        "eq10 and eq15 depend on the common sign of each pair of singular vectors, which is "
        "arbitrary: raw takes what the factorisation returned (as the paper does), aligned turns "
        "each pair of post towards its partner.",
        choices=SIGNS,
    )
    factorisation: str = setting(
        "auto",
        "How matrices are factorised: auto takes svd_f64, and for eqs. 11, 12 and 16, which need "
        "polar factors only, the quicker gram_f64 (with svd_f64 where its error would show).",
        choices=("auto", "svd_f64", "svd_f32", "gram_f64"),
    )
    factor_cache: str = setting(
        "",
        "Directory in which factors are kept and looked up, for several constructions of the same "
        "checkpoints. Default: none are kept.",
    )
    factor_cache_bytes: int = setting(
        20 * 2**30,
        "Most bytes that --factor_cache holds.",
        least=0,
        expected="a number of bytes",
    )
    control: str = setting(
        "",
        "Write this control of the construction instead of the construction itself. interpolated "
        "is base where base is nearer to W_post than the construction.",
        choices=CONTROLS,
    )
    seed: int = setting(
        0, "Of --control=noise.", least=0, below=2**32, expected="0 or more and less than 2^32"
    )
    recipe: Recipe = field(init=False)
    factors: Alpha = field(init=False)

    def _parsers(self) -> dict[str, Callable[[], Any]]:
        return {
            "recipe": lambda: get_recipe(self.construction),
            **super()._parsers(),
            "factors": lambda: Alpha.parse(self.alpha),
            "chosen": self._choose_modules,
        }

    def _choose_modules(self) -> Modules:
        recipe = getattr(self, "recipe", None)
        if not self.modules and recipe is not None and not recipe.everywhere:
            raise InputError(
                f"--modules is not given: {recipe.name} is applied to attention or to the MLP; "
                "write --modules=self_attn, mlp, all, a projection such as o_proj or a regular "
                "expression"
            )
        return Modules(self.modules or "all")

    def _mismatches(self) -> list[str]:
        recipe = getattr(self, "recipe", None)
        if recipe is None:
            return []
        faults = []
        if (recipe.partner == "other") != bool(self.other):
            faults.append(
                f"--other is not given: {recipe.name} takes its rotation from another post model"
                if recipe.partner == "other"
                else f"--other={self.other}: {recipe.name} takes no other model, only eq12 does"
            )
        if not recipe.scaled and self.alpha != AUTO:
            faults.append(f"--alpha={self.alpha}: only eq9 has a factor, not {recipe.name}")
        if not recipe.signed and self.signs == "aligned":
            faults.append(
                f"--signs=aligned: {recipe.name} does not depend on signs, only eq10 and eq15 do"
            )
        if self.seed and self.control != "noise":
            faults.append(f"--seed={self.seed}: only --control=noise draws anything")
        return faults

    def _place_faults(self) -> list[str]:
        faults = super()._place_faults()
        if self.out and self.factor_cache and _is_within(self.factor_cache, self.out):
            faults.append(
                f"--factor_cache={self.factor_cache} lies in --out={self.out}: give a directory "
                "of its own"
            )
        return faults


@dataclass(frozen=True, kw_only=True)
class InitialiseJob(EditJob):
    """One initialisation of one checkpoint: flags of ``python -m svdjax.construct``.

    Attributes:
        factors: What to scale by: a number, or numbers by projection; None for ``lora``.

    Raises:
        InputError: The values are wrong or do not go together; everything at once.
    """

    rank: int = setting(0, "lora: how many singular components to take out.")
    components: str = setting(
        "top", "lora: which ones: top, middle, bottom, or the number of the first, from 0."
    )
    factor: str = setting(
        "",
        'scaled: a number, or a JSON file {"o_proj": 1.4, "q_proj": [1.0, 1.1, ...]} with a '
        "number, or one for each layer of the model.",
    )
    factors: Any = field(init=False)

    @property
    def lora(self) -> bool:
        """Whether it is that of LoRA."""
        return self.construction == "lora"

    @property
    def stored(self) -> str:
        """Storage dtype of the result, empty for the model's own.

        Float32 unless asked otherwise for LoRA: what rounding takes from the residual no adapter
        gives back.
        """
        return self.dtype or ("float32" if self.lora else "")

    def _parsers(self) -> dict[str, Callable[[], Any]]:
        return {
            "chosen": lambda: Modules(self.modules or ("all" if self.lora else "o_proj")),
            **super()._parsers(),
            "factors": lambda: None if self.lora else read_factor(self.factor),
        }

    def _mismatches(self) -> list[str]:
        faults = []
        if self.lora and self.rank < 1:
            faults.append(f"--rank={self.rank}: expected how many singular components to take out")
        if self.lora and self.factor:
            faults.append(f"--factor={self.factor}: only --construction=scaled has a factor")
        if not self.lora and self.rank:
            faults.append(f"--rank={self.rank}: only --construction=lora has a rank")
        return faults


def read_factor(text: str) -> float | dict[str, Any]:
    """Reads a number, or the path of a file {"o_proj": 1.4, "q_proj": [1.0, 1.1, ...]}.

    A list has one factor for each layer of the model.

    Raises:
        InputError: It is neither.
    """
    given = number_or_file(text)
    if given is None:
        raise InputError(
            f"--factor={text}: expected a number, or a JSON file such as "
            '{"o_proj": 1.4} or {"q_proj": [1.0, 1.1]} with one number for each layer'
        )
    if not isinstance(given, pathlib.Path):
        return _positive(given, f"--factor={text}")
    # Not before: numpy comes with it, and is not loaded where memory is too short for it.
    from svdjax.checkpoint.small_json import read_object

    return {
        name: [_positive(each, f"{given}: factor of {name}") for each in value]
        if isinstance(value, list)
        else _positive(value, f"{given}: factor of {name}")
        for name, value in read_object(given).items()
    }


def factor_names(factors: float | Mapping[str, Any] | None) -> list[str]:
    """The projections that have factors of their own, none where one number serves all."""
    return list(factors) if isinstance(factors, Mapping) else []


def _positive(value: Any, what: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise InputError(f"{what} is {printable(repr(value), 60)}, expected a number above 0")
    return float(value)


def _is_within(inner: str, outer: str) -> bool:
    try:
        paths = [pathlib.Path(path).expanduser().resolve() for path in (inner, outer)]
    except (OSError, RuntimeError, ValueError):
        return False
    return paths[0].is_relative_to(paths[1])
