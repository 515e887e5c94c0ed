"""Long matrices compared without Q1 and Q2, and again with factors where that is not enough."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from svdjax.spectral import PairMetrics, kernels, prepare_stack
from svdjax.spectral.compare import FACTORS, GRAM
from tests.spectral import matrices, reference
from tests.spectral.run import CORNER, LAYERS, analyse, analyse_many

LONG = [(40, 16), (16, 40)]
KAPPAS = (1.5, 1e1, 1e2, 1e4)
EPS = np.finfo(np.float64).eps
NAMES = ("sigma_base", "sigma_post", "svsm", "nf", "nf_rank", "trace", "diag", "sim_u", "sim_v")
NAMES += ("i_orth", "norm_base", "norm_post", "norm_delta", "alpha_ls")


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        *((shape, (False, False)) for shape in LONG),
        *(((40, 16), given) for given in [(True, False), (True, True)]),
        ((16, 40), (False, True)),
    ],
)
def test_agrees_with_the_equations(shape, given):
    # Values of float32, in the one dtype that the tests of this folder share their programs in.
    base, post = (
        w.astype(np.float64)
        for w in matrices.stack(np.random.default_rng(1), shape, KAPPAS, np.float32)
    )
    known = tuple(
        prepare_stack(w, measure="vectors") if needed else None
        for w, needed in zip((base, post), given)
    )
    got = analyse(base, post, "auto", measure="vectors", known=known)
    assert np.all(got.route == GRAM)
    for layer, kappa in enumerate(KAPPAS):
        want = reference.pair(base[layer], post[layer], corner=CORNER)
        s = want["sigma_post"]
        gap = np.minimum(want["gap_base"] * want["sigma_base"], want["gap_post"] * s).min()
        for name in NAMES:
            value, expected = getattr(got, name)[layer], want[name]
            if name == "i_orth":  # the signs of pairs are the library's choice
                value, expected = np.abs(value), np.abs(expected)
            # As in test_kernels: polar factors turn by eps kappa, vectors by eps s_1 / gap; and a
            # Gram matrix has the square of the condition number.
            by = {"svsm": kappa, "nf": kappa, "nf_rank": kappa, "trace": kappa * min(shape)}
            by |= dict.fromkeys(("diag", "sim_u", "sim_v", "i_orth"), s[0] / gap)
            tolerance = 120 * EPS * kappa * by.get(name, 1)
            np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("size", [0.0, 1e-13, 1e-9, 1e-5])
def test_nothing_is_cancelled_where_post_is_close_to_base(shape, size):
    rng = np.random.default_rng(2)
    base = matrices.stack(rng, shape, (1e1,) * LAYERS)[0]
    post = 2 * base + size * rng.standard_normal(base.shape)
    got = analyse(base, post, "auto", measure="vectors")
    assert np.all(got.route == GRAM)
    # alpha is rounded, and so are norms of some 14.
    rounding = 4 * EPS * got.norm_post
    assert np.all(np.abs(got.norm_delta) <= 4 * size * np.sqrt(base[0].size) + rounding)
    for layer in range(LAYERS):
        nf = float(reference.nf_extended(base[layer], post[layer]))
        # Both polar factors err by eps kappa^2 at most; a square root of eps would be 1e-8.
        assert abs(got.nf[layer] - nf) <= min(got.nf_error[layer], 1e2 * EPS * 1e2)


KAPPAS_APART = np.array((1e1, 1e7, 1e2, 1e8, 1e9, 1e3, 1e6, 1e1))


@pytest.mark.parametrize(("shape", "measure"), [((40, 16), "fits"), ((16, 40), "vectors")])
def test_only_what_is_not_good_enough_is_factorised(shape, measure):
    base, post = matrices.stack(np.random.default_rng(3), shape, KAPPAS_APART)
    got = analyse_many(base, post, "auto", measure)
    assert list(got.route) == [GRAM if kappa < 1e5 else FACTORS for kappa in KAPPAS_APART]
    true = analyse_many(base, post)
    assert np.all(np.abs(true.nf - got.nf) <= got.nf_error + true.nf_error)


def test_as_many_as_need_it_are_factorised_on_devices_side_by_side():
    """Seven on two devices, four of them again; alone, four and four of eight."""
    stacks = matrices.stack(np.random.default_rng(3), (16, 40), KAPPAS_APART)
    base, post = (w[:7] for w in stacks)
    mesh = jax.make_mesh((2,), ("layers",))
    got = analyse(base, post, "auto", mesh, "vectors")
    alone = PairMetrics(*(field[:7] for field in analyse_many(*stacks, "auto", "vectors")))
    for name, a, b in zip(PairMetrics._fields, alone, got):
        # The same operations on the same matrix, fused otherwise; amplified by kappa.
        scale = np.reshape(KAPPAS_APART[:7], (-1, *[1] * (a.ndim - 1))) / 1e1
        difference = np.abs(a.astype(float) - b) / scale
        assert np.nanmax(difference, initial=0.0) <= 1e-13, name
        assert np.array_equal(np.isnan(a), np.isnan(b)), name


def test_one_program_factorises_any_number():
    def programs(*kappas):
        before = kernels._analyse.program._cache_size()
        base, post = matrices.stack(np.random.default_rng(4), LONG[0], kappas)
        analyse(base, post, "auto", measure="vectors")
        return kernels._analyse.program._cache_size() - before

    # None where a test before this one has asked for the same.
    assert programs(1e1, 1e1, 1e1, 1e1) <= 1
    assert programs(1e1, 1e8, 1e1, 1e1) <= 1
    assert programs(1e8, 1e1, 1e8, 1e8) == 0
    assert programs(1e8, 1e8, 1e8, 1e8) == 0
