"""What a construction is asked to be: the flags, checked as far as they can be without jax."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from svdjax.constructions.alpha import AUTO, Alpha
from svdjax.constructions.controls import get_control
from svdjax.constructions.recipes import SIGNS, Recipe, get_recipe
from svdjax.constructions.selection import Layers, Modules
from svdjax.engine.faults import missing_faults
from svdjax.errors import InputError

DTYPES = ("bfloat16", "float16", "float32")
GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ConstructJob:
    """One construction of one checkpoint.

    The flags of ``python -m svdjax.construct`` have the fields' names and explain them.

    Raises:
      InputError: the values are wrong or do not go together; everything at once.
    """

    base: str
    post: str
    out: str
    construction: str
    other: str = ""
    modules: str = ""
    layers: str = ""
    alpha: str = AUTO
    signs: str = "raw"
    dtype: str = ""
    overwrite: bool = False
    factorisation: str = "auto"
    group_bytes: int = GROUP_BYTES
    devices: int = 0
    factor_cache: str = ""
    factor_cache_bytes: int = 20 * 2**30
    control: str = ""
    seed: int = 0
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
        if self.control:
            attempt("control", lambda: get_control(self.control))
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
        found = missing_faults(self, ("base", "post", "out"))
        if self.signs not in SIGNS:
            found.append(f"--signs={self.signs}: expected {' or '.join(SIGNS)}")
        if self.dtype and self.dtype not in DTYPES:
            found.append(
                f"--dtype={self.dtype}: expected {', '.join(DTYPES)}, or nothing for the post "
                "model's own"
            )
        if self.group_bytes < 1 or self.factor_cache_bytes < 0:
            found.append("--group_bytes and --factor_cache_bytes: expected a number of bytes")
        if not 0 <= self.seed < 2**32:
            found.append(f"--seed={self.seed}: expected 0 or more and less than 2^32")
        if self.devices < 0:
            found.append(f"--devices={self.devices}: expected a count, or 0 for all")
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
