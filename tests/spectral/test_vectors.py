"""Long matrices compared without Q1 and Q2, and again with factors where that is not enough."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from svdjax.spectral import PairMetrics, analyse_stack, known_stack
from svdjax.spectral.relation import FACTORS, GRAM
from tests.spectral import matrices, reference
from tests.spectral.run import CORNER, LAYERS, analyse

LONG = [(40, 16), (16, 40)]
KAPPAS = (1.5, 1e1, 1e2, 1e4)
EPS = np.finfo(np.float64).eps
NAMES = ("sigma_base", "sigma_post", "svsm", "nf", "nf_rank", "trace", "diag", "sim_u", "sim_v")
NAMES += ("i_orth", "norm_base", "norm_post", "norm_delta", "alpha_ls")


@pytest.mark.parametrize("given", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", LONG)
def test_agrees_with_the_equations(shape, given):
    base, post = matrices.stack(np.random.default_rng(1), shape, KAPPAS, np.float32)
    known = tuple(
        known_stack(w, measure="vectors") if needed else None
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


@pytest.mark.parametrize("measure", ["vectors", "fits"])
@pytest.mark.parametrize("shape", LONG)
def test_only_what_is_not_good_enough_is_factorised(shape, measure):
    kappas = (1e1, 1e7, 1e2, 1e8, 1e9, 1e3, 1e6)
    base, post = matrices.stack(np.random.default_rng(3), shape, kappas)
    mesh = jax.make_mesh((2,), ("layers",))
    got = analyse(base, post, "auto", mesh, measure)
    assert list(got.route) == [GRAM if kappa < 1e5 else FACTORS for kappa in kappas]
    alone = [analyse(base[i : i + 1], post[i : i + 1], "auto", None, measure) for i in range(7)]
    alone = PairMetrics(*(np.concatenate(field) for field in zip(*alone)))
    for name, a, b in zip(PairMetrics._fields, alone, got):
        # The same operations on the same matrix, fused otherwise; amplified by kappa.
        scale = np.reshape(kappas, (-1, *[1] * (a.ndim - 1))) / 1e1
        difference = np.abs(a.astype(float) - b) / scale
        assert np.nanmax(difference, initial=0.0) <= 1e-13, name
        assert np.array_equal(np.isnan(a), np.isnan(b)), name
    true = analyse(base, post, "svd_f64", measure=measure)
    error = np.abs(true.nf - got.nf)
    assert np.all(error <= got.nf_error + true.nf_error)


def test_one_program_factorises_any_number():
    shape, compiled = (44, 20), []

    def heard(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    def run(*kappas):
        compiled.clear()
        base, post = matrices.stack(np.random.default_rng(4), shape, kappas)
        analyse_stack(base, post, factorisation="auto", measure="vectors")
        return len(compiled)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        first, second = run(1e1, 1e1, 1e1, 1e1), run(1e1, 1e8, 1e1, 1e1)
        assert (first, second) == (1, 1)
        assert run(1e8, 1e1, 1e8, 1e8) == 0
    finally:
        jax.monitoring.clear_event_listeners()
