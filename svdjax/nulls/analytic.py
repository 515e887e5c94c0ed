"""Nulls by formula, where they hold, and which layers are sampled instead.

Axis legend: `L` matrices, of all experts where there are some.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from svdjax.spectra.results import ProjectionResult
from svdjax.spectral import nulls

UNCHANGED = 1e-12
"""Relative size of a change that is rounding of float64."""


class Analytic(NamedTuple):
    """The analytic nulls of a projection, and where they hold; all [L].

    Attributes:
        first_order: NF by `svdjax.spectral.nulls.first_order`.
        all_orders: NF by `svdjax.spectral.nulls.all_orders`.
        first_order_holds: Whether `first_order` holds, bool.
        all_orders_hold: Whether `all_orders` holds, bool.
        delta: ||W_post - alpha W_base||_F / ||W_post||_F.
        usable: Whether there is a change, NF and alpha are defined, and storage carries every
            direction, bool.
    """

    first_order: np.ndarray
    all_orders: np.ndarray
    first_order_holds: np.ndarray
    all_orders_hold: np.ndarray
    delta: np.ndarray
    usable: np.ndarray


def analytic_nulls(projection: ProjectionResult) -> Analytic:
    """Analytic nulls of every layer, from the results of the spectra stage."""
    projection = projection.flat
    m, layers, shape = projection.metrics, projection.matrices, projection.shape
    norm_delta = np.asarray(m.norm_delta, np.float64)
    norm_post = np.asarray(m.norm_post, np.float64)
    alpha = np.asarray(m.alpha_ls, np.float64)
    delta = np.divide(norm_delta, norm_post, out=np.full(layers, np.nan), where=norm_post > 0)
    usable = np.isfinite(projection.nf) & np.isfinite(alpha) & (delta > UNCHANGED)
    usable &= ~projection.storage_limited  # its NF is mostly rounding
    sigma = nulls.scaled_base(np.asarray(m.sigma_base), np.where(usable, alpha, 1.0), shape)
    s = nulls.entry_scale(norm_delta, shape)
    first, every = np.full((2, layers), np.nan)
    first_holds, every_holds = np.zeros((2, layers), bool)
    for i in np.flatnonzero(usable):
        every[i] = nulls.all_orders(sigma[i], s[i], shape, negative=bool(alpha[i] < 0))
        every_holds[i] = nulls.all_orders_hold(every[i], shape)
        if alpha[i] > 0:
            first[i] = nulls.first_order(sigma[i], s[i])
            first_holds[i] = nulls.first_order_holds(sigma[i], s[i], shape)
    return Analytic(first, every, first_holds, every_holds, delta, usable)


def chosen_layers(analytic: Analytic, most: int) -> np.ndarray:
    """The layers to be sampled, ascending.

    Layers where no formula holds come first, the others fill up; each evenly spread.

    Args:
        analytic: The projection's analytic nulls.
        most: Largest number of layers, 0 for all.
    """
    usable = np.flatnonzero(analytic.usable)
    if not most or len(usable) <= most:
        return usable
    holds = analytic.first_order_holds | analytic.all_orders_hold
    without = usable[~holds[usable]]
    first = _even(without, most)
    rest = _even(np.setdiff1d(usable, without), most - len(first))
    return np.sort(np.concatenate([first, rest]))


def _even(layers: np.ndarray, count: int) -> np.ndarray:
    """So many of the layers, evenly spread; the middle one for one."""
    if len(layers) <= count:
        return layers
    if count == 1:
        return layers[[len(layers) // 2]]
    return layers[np.linspace(0, len(layers) - 1, count).round().astype(int)]
