"""One shape of call for most tests, so that each kernel is compiled once for all of them."""

from __future__ import annotations

import jax
import numpy as np

from svdjax.spectral import PairMetrics, analyse_stack

LAYERS, CORNER = 4, 9


def analyse(base, post, route="svd_f64", mesh=None, measure="all", **known) -> PairMetrics:
    """Analyse a stack of `LAYERS` matrices and fetch the results."""
    how = {"factorisation": route, "corner": CORNER, "measure": measure, "mesh": mesh, **known}
    return jax.device_get(analyse_stack(base, post, **how))


def analyse_many(base, post, route="svd_f64", measure="all") -> PairMetrics:
    """Analyse any multiple of `LAYERS` matrices."""
    parts = [
        analyse(base[i : i + LAYERS], post[i : i + LAYERS], route, measure=measure)
        for i in range(0, len(base), LAYERS)
    ]
    return PairMetrics(*(np.concatenate(field) for field in zip(*parts)))


def analyse_one(base, post, route="svd_f64") -> PairMetrics:
    """Analyse one pair of matrices."""
    got = analyse(np.stack([base] * LAYERS), np.stack([post] * LAYERS), route)
    return PairMetrics(*(np.asarray(field)[0] for field in got))
