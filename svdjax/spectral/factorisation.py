"""Factorisations by name, each a method with its working dtype.

Axis legend: `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import jax
import numpy as np

from svdjax.errors import InputError
from svdjax.spectral.factors import Factors, SVDState, lapack_factors
from svdjax.spectral.gram_factors import gram_factors
from svdjax.spectral.stored import Stored, to_floats


@dataclass(frozen=True)
class Factorisation:
    """A function from a matrix to its factors, with the dtype that it works in.

    Attributes:
        name: What configs call it.
        dtype: Name of the working dtype, ``float32`` or ``float64``.
        factor: Function of one tall matrix [I, O], I >= O, in the working dtype.
        supports_gram: Whether long matrices may be compared by their Gram matrices where that is
            exact enough (`svdjax.spectral.compare.GramMethod`); `factor` then takes, as second
            argument, the singular vectors of the short side as rows, V^T, if they are known.
    """

    name: str
    dtype: str
    factor: Callable[..., SVDState]
    supports_gram: bool = False

    @property
    def batches(self) -> bool:
        """Whether several matrices are factorised at once without more work; see `lift`."""
        return not self.supports_gram

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number of the working dtype."""
        return float(np.finfo(self.dtype).eps)

    def check(self) -> None:
        """Makes sure that the working dtype is there.

        Raises:
            RuntimeError: It is float64 and 64-bit types are off, where jax would silently compute
                in float32. Enter `working_precision` first.
        """
        if self.dtype == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore
            raise RuntimeError(
                f"factorisation {self.name!r} works in float64 but 64-bit types are off: "
                "call it within svdjax.spectral.working_precision(...)"
            )

    def upcast(self, w: Stored) -> jax.Array:
        """A stored matrix in the working dtype, on the device; raises what `check` does."""
        self.check()
        return jax.lax.convert_element_type(to_floats(w), self.dtype)

    def __call__(self, w: Stored, vt: jax.Array | None = None) -> SVDState:
        """Factors of one matrix [I, O] of any orientation and storage dtype.

        LAPACK's gesdd takes up to four times as long on a wide matrix: those are transposed, and U
        and V swapped back.

        Args:
            w: The matrix.
            vt: Singular vectors of its short side as rows [R, R], where they are known and the
                factorisation `supports_gram`.
        """
        w = self.upcast(w)
        known = () if vt is None else (vt,)
        if w.shape[0] >= w.shape[1]:
            return self.factor(w, *known)
        (u, s, v), *errors = self.factor(w.T, *known)
        return SVDState(Factors(v, s, u), *errors)


FACTORISATIONS: Mapping[str, Factorisation] = MappingProxyType(
    {
        "svd_f64": Factorisation("svd_f64", "float64", lapack_factors),
        "svd_f32": Factorisation("svd_f32", "float32", lapack_factors),
        "gram_f64": Factorisation("gram_f64", "float64", gram_factors, supports_gram=True),
    }
)


AUTO = "gram_f64"
"""What ``auto`` takes, for every shape and on every device. Whether a long matrix needs its
factors, and whether any matrix needs an SVD, is decided matrix by matrix from the measured
conditioning; the results say which (`route`)."""


def get_factorisation(name: str | Factorisation) -> Factorisation:
    """The factorisation of a name, or of ``auto``; one that is given as such is returned.

    Raises:
        InputError: There is none of that name.
    """
    if isinstance(name, Factorisation):
        return name
    if name == "auto":
        return FACTORISATIONS[AUTO]
    if name not in FACTORISATIONS:
        near = difflib.get_close_matches(str(name), FACTORISATIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"factorisation {name!r}: expected one of auto, {', '.join(FACTORISATIONS)}{hint}"
        )
    return FACTORISATIONS[name]


def working_precision(
    factorisation: str | Factorisation,
) -> contextlib.AbstractContextManager[object]:
    """Context in which a factorisation has its dtype: 64-bit types on where that is float64.

    The setting belongs to the thread and ends with the block.
    """
    if get_factorisation(factorisation).dtype == "float64":
        return jax.enable_x64(True)
    return contextlib.nullcontext()
