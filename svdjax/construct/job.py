"""What a construction is asked to be: the flags, checked as far as they can be without jax."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax import fields
from svdjax.construct.alpha import AUTO, Alpha
from svdjax.construct.controls import CONTROLS
from svdjax.construct.recipes import SIGNS, Recipe, get_recipe
from svdjax.construct.selection import Layers, Modules
from svdjax.errors import InputError
from svdjax.fields import setting

DTYPES = ("bfloat16", "float16", "float32")

# What constructions of two models and initialisations of one have in common.
BASE = "Base model: a directory, or a hub id org/name[@rev]."
OUT = "Directory to write."
CONSTRUCTION = "Which construction; the list above has the formulas."
MODULES = (
    "Which linear layers: self_attn, mlp, all, a projection such as o_proj, or a regular "
    "expression that is searched for in names like self_attn.q_proj. Defaults to all for eq9 and "
    "eq14, as in the paper, and for lora, to o_proj for scaled; must be named for the others, "
    "which the paper applies to attention or to the MLP."
)
LAYERS = "Which layers, counted from 0: 0-3,7,20- for example. Default: all."
DTYPE = "Storage dtype of the result; default: that of the edited model, for lora float32."
OVERWRITE = "Replace a checkpoint that is there already."


def group_bytes_setting() -> Any:
    """Host bytes of a group of layers."""
    return setting(
        64 * 2**20,
        "Host bytes of one group of layers, both checkpoints as stored. Peak memory is about four "
        "of these, what one matrix pair in work takes on each CPU device, and 0.5 GB.",
        least=1,
        expected="a number of bytes",
    )


def devices_setting() -> Any:
    """Devices that the layers are spread over."""
    return setting(
        0,
        "Devices to spread the layers over; 0 takes all.",
        least=0,
        expected="a count, or 0 for all",
    )


@dataclass(frozen=True)
class ConstructJob:
    """One construction of one checkpoint: flags of ``python -m svdjax.construct``.

    Raises:
      InputError: the values are wrong or do not go together; everything at once.
    """

    base: str = setting(help=BASE)
    post: str = setting(help="Post-trained model that is edited: a directory or hub id.")
    out: str = setting(help=OUT)
    construction: str = setting(help=CONSTRUCTION)
    other: str = setting("", "Another post model of the same base, for eq12: directory or hub id.")
    modules: str = setting("", MODULES)
    layers: str = setting("", LAYERS)
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
    dtype: str = setting(
        "", DTYPE, choices=DTYPES, expected=f"{', '.join(DTYPES)}, or nothing for the model's own"
    )
    overwrite: bool = setting(False, OVERWRITE)
    factorisation: str = setting(
        "auto",
        "How matrices are factorised: auto takes svd_f64, and for eqs. 11, 12 and 16, which need "
        "polar factors only, the quicker gram_f64 (with svd_f64 where its error would show).",
        choices=("auto", "svd_f64", "svd_f32", "gram_f64"),
    )
    group_bytes: int = group_bytes_setting()
    devices: int = devices_setting()
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
    chosen: Modules = field(init=False)
    chosen_layers: Layers = field(init=False)
    factors: Alpha = field(init=False)

    def __post_init__(self) -> None:
        faults: list[str] = []

        def attempt(name: str, make) -> None:
            try:
                object.__setattr__(self, name, make())
            except InputError as error:
                faults.append(str(error))

        attempt("recipe", lambda: get_recipe(self.construction))
        attempt("chosen_layers", lambda: Layers.parse(self.layers))
        attempt("factors", lambda: Alpha.parse(self.alpha))
        recipe = getattr(self, "recipe", None)
        modules = self.modules or ("all" if recipe is not None and recipe.everywhere else "")
        if modules:
            attempt("chosen", lambda: Modules(modules))
        elif recipe is not None:
            faults.append(
                f"--modules is not given: {recipe.name} is applied to attention or to the MLP; "
                "write --modules=self_attn, mlp, all, a projection such as o_proj or a regular "
                "expression"
            )
        if recipe is not None:
            faults += self._mismatches(recipe)
        faults += self._range_faults()
        if faults:
            raise InputError(" | ".join(faults))

    def _mismatches(self, recipe: Recipe) -> list[str]:
        """What was given and does not enter, or enters and was not given."""
        found = []
        if (recipe.partner == "other") != bool(self.other):
            found.append(
                f"--other is not given: {recipe.name} takes its rotation from another post model"
                if recipe.partner == "other"
                else f"--other={self.other}: {recipe.name} takes no other model, only eq12 does"
            )
        if not recipe.scaled and self.alpha != AUTO:
            found.append(f"--alpha={self.alpha}: only eq9 has a factor, not {recipe.name}")
        if not recipe.signed and self.signs == "aligned":
            found.append(
                f"--signs=aligned: {recipe.name} does not depend on signs, only eq10 and eq15 do"
            )
        if self.seed and self.control != "noise":
            found.append(f"--seed={self.seed}: only --control=noise draws anything")
        return found

    def _range_faults(self) -> list[str]:
        found = fields.faults(self)
        if self.out:
            sides = {side: getattr(self, side) for side in ("base", "post", "other")}
            found += place_faults(self.out, sides)
            if self.factor_cache and _is_within(self.factor_cache, self.out):
                found.append(
                    f"--factor_cache={self.factor_cache} lies in --out={self.out}: give a "
                    "directory of its own"
                )
        return found


def _is_within(inner: str, outer: str) -> bool:
    try:
        paths = [pathlib.Path(path).expanduser().resolve() for path in (inner, outer)]
    except (OSError, RuntimeError, ValueError):
        return False
    return paths[0].is_relative_to(paths[1])


def place_faults(out: str, sources: Mapping[str, str]) -> list[str]:
    """Whether the result lies in, on or around what it is made of, in words.

    Args:
      out: where it is to be written.
      sources: checkpoints by the flag that names them; hub ids lie elsewhere.
    """
    try:
        place = pathlib.Path(out).expanduser().resolve()
        for side, source in sources.items():
            there = pathlib.Path(source).expanduser()
            if not source or not there.is_dir():
                continue
            there = there.resolve()
            if place == there or place in there.parents or there in place.parents:
                return [
                    f"--out={out} lies on, in or around --{side}={source}: give a directory of its "
                    "own"
                ]
    except (OSError, RuntimeError, ValueError) as error:
        return [f"--out={out} cannot be used: {error}"]
    return []
