"""Every field of every layer against numpy; sharding, tracing and memory of the stack kernel."""

from __future__ import annotations

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import DTypeLike

from svdjax.errors import InputError
from svdjax.spectral import Factorisation, PairMetrics, analyse_stack, get_factorisation
from tests.spectral import matrices, reference
from tests.spectral.run import CORNER, LAYERS, analyse

KAPPAS = (1.5, 1e1, 1e2, 1e4)
# Routes and shapes in the working dtype, for which the tests of this folder share their programs.
GRID = [
    (shape, np.float64, route, "all")
    for shape in matrices.SHAPES
    for route in ("svd_f64", "gram_f64")
]
GRID += [(shape, np.float32, "svd_f32", "all") for shape in matrices.IN_FLOAT32]
# What is stored otherwise is converted alike by every route, and fits are made of factors.
GRID += [
    ((16, 40), ml_dtypes.bfloat16, "svd_f64", "vectors"),
    ((40, 16), np.float16, "svd_f64", "vectors"),
    ((24, 24), np.float32, "svd_f64", "vectors"),
    ((24, 24), ml_dtypes.bfloat16, "svd_f32", "vectors"),
]


OF_FITS = {"common_sigma_min", "residual_q1", "residual_q2", "residual_asymmetry"}
OF_FITS |= {
    f"fit_{rotation}_{what}"
    for rotation in ("q1", "q2", "common", "optimal")
    for what in ("alpha", "error")
}


def stacks(seed, shape, dtype: DTypeLike = np.float64):
    """Values of float32, or of a narrower dtype."""
    values = np.float32 if dtype == np.float64 else dtype
    both = matrices.stack(np.random.default_rng(seed), shape, KAPPAS, values)
    return [w.astype(dtype) for w in both]


@pytest.mark.parametrize(("shape", "dtype", "route", "measure"), GRID)
def test_agrees_with_the_equations(shape, dtype, route, measure):
    base, post = stacks(1, shape, dtype)
    got = analyse(base, post, route, measure=measure)
    eps = get_factorisation(route).eps
    for layer, kappa in enumerate(KAPPAS):
        want = reference.pair(base[layer], post[layer], corner=CORNER)
        s = want["sigma_post"]
        assert got.rank_base[layer] == got.rank_post[layer] == min(shape)
        for name, expected in want.items():
            value = getattr(got, name)[layer]
            assert value.dtype == get_factorisation(route).dtype
            if measure == "vectors" and name in OF_FITS:
                assert np.isnan(value)
                continue
            if name == "i_orth":  # the signs of pairs are the library's choice
                value, expected = np.abs(value), np.abs(expected)
            # Vectors turn by eps s_1 / gap, polar factors by eps kappa; norms, sigmas and fits
            # follow the matrix itself. 120 covers the growth with the dimension and the norms.
            gap = np.minimum(want["gap_base"] * want["sigma_base"], want["gap_post"] * s).min()
            # A Gram matrix has the square of the condition number.
            tolerance = (
                120
                * eps
                * (kappa if route == "gram_f64" else 1)
                * {
                    "svsm": kappa,
                    "nf": kappa,
                    "nf_rank": kappa,
                    "trace": kappa * min(shape),
                    "diag": s[0] / gap,
                    "sim_u": s[0] / gap,
                    "sim_v": s[0] / gap,
                    "i_orth": s[0] / gap,
                    "gap_base": s[0] / s[-1],
                    "gap_post": s[0] / s[-1],
                    "common_sigma_min": kappa,
                    # Relative to the change, a twentieth of post or so.
                    "corotation": 20,
                    "corotation_std": 20,
                    "outside_share": 20,
                    "residual_q1": kappa,
                    "residual_q2": kappa,
                    "residual_asymmetry": kappa,
                }.get(name, 1)
            )
            np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_default_route_meets_the_promised_accuracy(shape):
    base, post = stacks(2, shape)
    got = analyse(base, post)
    for layer in range(LAYERS):
        want = reference.pair(base[layer], post[layer])
        for field in ("sigma_base", "sigma_post"):
            error = np.abs(getattr(got, field)[layer] - want[field])
            assert error.max() <= 1e-5 * want[field][0]
            assert error.max() <= got.sigma_error[layer] <= 1e-12 * want[field][0]
        assert abs(got.nf[layer] - want["nf"]) <= 1e-4 * want["nf"] + 1e-6
        assert abs(got.nf[layer] - want["nf"]) <= 1e-10  # what float64 gives at kappa 1e4


def test_sigma_error_of_the_baseline_bounds_the_error():
    for shape in matrices.IN_FLOAT32:
        base, post = stacks(3, shape, np.float32)
        got = analyse(base, post, "svd_f32")
        for layer in range(LAYERS):
            error = np.abs(got.sigma_base[layer] - reference.svd(base[layer])[1]).max()
            assert error <= got.sigma_error[layer] <= 1e-5 * got.sigma_base[layer, 0]


@pytest.mark.parametrize("layers", [3, 4])
@pytest.mark.parametrize("axis_type", ["Explicit", "Auto"])
def test_sharded_equals_unsharded(layers, axis_type):
    mesh = jax.make_mesh((2,), ("layers",), (getattr(jax.sharding.AxisType, axis_type),))
    stacks = matrices.stack(np.random.default_rng(4), (40, 16), np.geomspace(2, 1e3, LAYERS))
    base, post = (w[:layers] for w in stacks)
    alone = PairMetrics(*(field[:layers] for field in analyse(*stacks)))
    shared = analyse(base, post, mesh=mesh)
    for name, a, b in zip(PairMetrics._fields, alone, shared):
        assert a.shape[0] == b.shape[0] == layers
        # The same LAPACK on the same matrix, but XLA may fuse sums differently: a few eps.
        np.testing.assert_allclose(b, a, rtol=1e-13, atol=1e-13, err_msg=name)
    if layers % 2 == 0:
        placed = jax.device_put(base, jax.NamedSharding(mesh, jax.P("layers")))
        np.testing.assert_array_equal(analyse(placed, post, mesh=mesh).nf, shared.nf)


def test_transposed_views_are_read_as_they_are():
    base, post = matrices.stack(np.random.default_rng(5), (40, 16), KAPPAS)
    turned = [np.ascontiguousarray(w.transpose(0, 2, 1)).transpose(0, 2, 1) for w in (base, post)]
    for a, b in zip(analyse(base, post), analyse(turned[0], turned[1])):
        np.testing.assert_array_equal(a, b)


def test_one_trace_per_shape():
    traces = []

    def counted(w):
        traces.append(w.shape)
        return get_factorisation("svd_f64").factor(w)

    route = Factorisation("counted", "float64", counted)
    rng = np.random.default_rng(6)
    how: Any = {"factorisation": route, "measure": "vectors"}
    analyse_stack(*matrices.stack(rng, (12, 8), (2.0, 5.0)), **how)
    once = len(traces)
    for _ in range(3):
        analyse_stack(*matrices.stack(rng, (12, 8), (2.0, 5.0)), **how)
    assert len(traces) == once
    analyse_stack(*matrices.stack(rng, (8, 12), (2.0, 5.0)), **how)
    assert len(traces) == 2 * once
    assert set(traces) == {(12, 8)}  # a route only ever sees the tall orientation


@pytest.mark.parametrize(
    "shape",
    [
        *((5120, 5120), (5120, 1024), (5120, 13824), (13824, 5120)),  # 14B
        *((8192, 8192), (8192, 1024), (8192, 28672), (28672, 8192)),  # 70B
    ],
)
@pytest.mark.parametrize("route", ["svd_f64", "svd_f32"])
def test_shapes_of_large_models(shape, route):
    stacked = jax.ShapeDtypeStruct((4, *shape), ml_dtypes.bfloat16)
    mesh = jax.make_mesh((2,), ("layers",))
    out = jax.eval_shape(
        lambda b, p: analyse_stack(b, p, factorisation=route, mesh=mesh), stacked, stacked
    )
    r = min(shape)
    for field in out:
        assert field.shape[0] == 4
        assert int(np.prod(field.shape[1:])) <= max(r, 25 * 25)  # never an [L, R, R]
        assert field.dtype in (route.replace("svd_f", "float"), np.int32)


def test_says_what_is_wrong_with_its_input():
    stack = np.zeros((2, 4, 3), np.float32)
    with pytest.raises(InputError, match=r"found \[2, 4, 3\] and \[2, 3, 4\]"):
        analyse_stack(stack, stack.transpose(0, 2, 1))
    with pytest.raises(InputError, match="expected two of one shape"):
        analyse_stack(stack[0], stack[0])
    with pytest.raises(InputError, match="expected an axis 'layers'"):
        analyse_stack(stack, stack, mesh=jax.make_mesh((2,), ("data",)))
    with pytest.raises(InputError, match="did you mean 'svd_f32'"):
        analyse_stack(stack, stack, factorisation="svd_f23")
