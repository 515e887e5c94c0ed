"""Comparison by Gram matrices: which way is taken, and that each keeps what it promises."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from svdjax.spectral import MEASURES, SVDState, analyse_stack, prepare_stack
from svdjax.spectral.compare import FACTORS, GRAM
from svdjax.spectral.gram_state import TOLERANCE
from tests.spectral import matrices
from tests.spectral.run import CORNER, LAYERS, analyse

LONG = (40, 16)
SPECTRA = {
    "decay": lambda kappa, r: np.geomspace(1, 1 / kappa, r),
    "one small": lambda kappa, r: np.r_[np.ones(r - 1), 1 / kappa],
    "clusters": lambda kappa, r: np.repeat(np.geomspace(1, 1 / kappa, r // 4), 4),
}


def pairs(rng, shape, kappas, spectrum):
    """Base and post with singular values known to the last bit but for the assembly."""
    r, sides, values = min(shape), ([], []), []
    for kappa in kappas:
        s = SPECTRA[spectrum](kappa, r)
        values.append(s)
        for side, scale in zip(sides, (1.0, 0.9)):
            u, v = matrices.orthonormal(rng, shape[0], r), matrices.orthonormal(rng, shape[1], r)
            side.append(matrices.assemble(u, scale * s, v))
    return np.stack(sides[0]), np.stack(sides[1]), np.stack(values)


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_long_factors_are_formed_only_where_they_are_needed(shape):
    base, post = matrices.stack(np.random.default_rng(3), shape, (1e1, 1e3, 1e6, 1e8))
    got = analyse(base, post, "auto")
    long = max(shape) >= 2 * min(shape)
    assert list(got.route) == ([GRAM, GRAM, FACTORS, FACTORS] if long else [FACTORS] * LAYERS)
    taken = got.route == GRAM
    level = np.sqrt(1 / shape[0] + 1 / shape[1])
    assert np.all(got.nf_error[taken] <= 2 * TOLERANCE * level)  # base and post add up
    assert np.all(got.sigma_error[taken] <= TOLERANCE * got.sigma_post[taken, -1] / 0.8)


@pytest.mark.parametrize("spectrum", list(SPECTRA))
@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_sigma_is_within_its_estimate(shape, spectrum):
    rng = np.random.default_rng(4)
    for kappas in ((1e0, 1e2, 1e3, 1e4), (1e5, 1e6, 1e7, 1e8)):
        base, post, s = pairs(rng, shape, kappas, spectrum)
        got = analyse(base, post, "auto")
        # Assembling and rounding the matrices moves their values by (3 + 4) eps s_1 at most.
        allowed = got.sigma_error + 7 * np.finfo(np.float64).eps
        assert np.all(np.abs(got.sigma_base - s).max(axis=1) <= allowed)
        assert np.all(np.abs(got.sigma_post - 0.9 * s).max(axis=1) <= allowed)


def test_rank_deficient_and_zero_matrices_are_recognised():
    rng = np.random.default_rng(5)
    base, post = matrices.stack(rng, LONG, (10.0,) * LAYERS)
    u, v = matrices.orthonormal(rng, LONG[0], 16), matrices.orthonormal(rng, LONG[1], 16)
    base[1] = matrices.assemble(u, np.r_[np.ones(11), np.zeros(5)], v)
    post[2] = 0
    base[3] = post[3] = 0
    got = analyse(base, post, "auto")
    assert list(got.rank_base) == [16, 11, 16, 0]
    assert list(got.rank_post) == [16, 16, 0, 0]
    assert np.isfinite(got.nf[0])
    assert np.isnan(got.nf[1:]).all()
    # A zero matrix loses nothing by its Gram matrix.
    assert list(got.route) == [GRAM, FACTORS, GRAM, GRAM]
    (ub, _, vb), (up, _, vp) = (np.linalg.svd(w[1], full_matrices=False) for w in (base, post))
    apart = np.linalg.norm((ub.T @ up - vb @ vp.T)[:11]) / np.sqrt(11 * 16)
    np.testing.assert_allclose(got.nf_rank[1], apart, rtol=1e-9)


# Of which side, where all is asked for; of long ones that need their factors too, once. Where
# vectors alone are asked for, test_vectors.py knows the other sides of the long shapes.
@pytest.mark.parametrize(
    ("shape", "given", "kappas"),
    [
        ((24, 24), (True, False), (1e1, 1e3, 1e5, 1e8)),
        ((24, 24), (False, True), (1e1, 1e3, 1e5, 1e8)),
        ((40, 16), (True, False), (1e1, 1e3, 1e5, 1e8)),
        ((16, 40), (True, True), (1e1, 1e2, 1e3, 3e3)),
    ],
)
def test_what_is_known_changes_nothing(shape, given, kappas):
    base, post = matrices.stack(np.random.default_rng(6), shape, kappas)
    one = prepare_stack(base)
    known = one if given[0] else None, prepare_stack(post) if given[1] else None
    short = np.linalg.svd(base[0])[2 if shape[0] >= shape[1] else 0]
    short = short.T if shape[0] >= shape[1] else short
    # A square matrix has its factors kept, a long one only the vectors of its short side.
    vectors = one.factors.v if isinstance(one, SVDState) else one.vt.swapaxes(1, 2)
    cosines = np.abs(np.einsum("rs,rs->s", short, np.asarray(vectors[0])))
    np.testing.assert_allclose(cosines, 1, atol=1e-9)  # kappa is 10, the gaps are a tenth
    got = jax.device_get(
        analyse_stack(base, post, factorisation="auto", corner=CORNER, known=known)
    )
    for name, value in analyse(base, post, "auto")._asdict().items():
        # The same operations in another program: rounding, by kappa where it is amplified.
        tolerance = 1e-13 * np.array(kappas) ** (name not in ("sigma_base",))
        difference = np.abs(getattr(got, name).astype(float) - value)
        worst = np.nanmax(difference.reshape(LAYERS, -1), axis=1)
        assert np.all(worst <= np.maximum(tolerance * 1e2, 1e-12)), name


def test_what_is_not_asked_for_is_nan():
    base, post = matrices.stack(np.random.default_rng(7), LONG, (1e1, 1e2, 1e3, 1e4))
    got = {
        level: jax.device_get(
            analyse_stack(base, post, factorisation="auto", corner=CORNER, measure=level)
        )._asdict()
        for level in MEASURES
    }
    missing = {
        level: {name for name, value in fields.items() if np.isnan(value).all()}
        for level, fields in got.items()
    }
    fits = {name for name in got["all"] if "fit" in name or "residual" in name}
    assert missing["all"] == set()
    identity = {"fit_identity_alpha", "fit_identity_error"}
    assert missing["vectors"] == fits - identity | {"common_sigma_min"}
    # q1 belongs to the long side here, and its polar factor is as dear as an SVD.
    dear = {name for name in fits if "common" in name or "q1" in name or name == "residual_q2"}
    assert missing["fits"] == dear | {"common_sigma_min"}
    for level in ("vectors", "fits"):
        for name, value in got[level].items():
            if name not in missing[level]:
                np.testing.assert_allclose(value, got["all"][name], atol=1e-9, err_msg=name)
