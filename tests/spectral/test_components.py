"""Components taken out of matrices, against numpy's SVD in float64.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `K` rank.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from svdjax.errors import InputError
from svdjax.spectral import FACTORISATIONS, get_factorisation, working_precision
from svdjax.spectral.components import Split, split_matrix, split_stack, start_of
from tests.spectral import matrices

KAPPAS = (3.0, 50.0, 1e3)
EPS = float(np.finfo(np.float32).eps)


def split(w, start, rank, **options) -> Split:
    return jax.device_get(split_stack(w, start=start, rank=rank, **options))


def stack(shape, seed=0):
    """Matrices [L, I, O] in float32 with singular values that are well apart."""
    return matrices.stack(np.random.default_rng(seed), shape, KAPPAS, np.float32)[0]


def places(r):
    return [("top", 3), ("middle", 4), ("middle", 3), ("bottom", 3), (2, 5), (0, 1), ("top", r)]


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_agrees_with_numpy(shape):
    w, r = stack(shape), min(shape)
    # Every place for one shape; for the others, one within and one that takes all.
    for where, rank in places(r) if shape == (24, 24) else [("middle", 4), ("top", r)]:
        start = start_of(where, rank, r)
        got = split(w, start, rank)
        assert got.a.shape == (len(w), shape[0], rank)
        assert got.b.shape == (len(w), rank, shape[1])
        assert got.residual.shape == w.shape
        assert {field.dtype for field in got} == {np.dtype(np.float32)}
        for layer, kappa in enumerate(KAPPAS):
            exact = w[layer].astype(np.float64)
            u, s, vt = np.linalg.svd(exact, full_matrices=False)
            a, b = u[:, start : start + rank], vt[start : start + rank]
            root = np.sqrt(s[start : start + rank])
            # The pair of vectors is defined up to a common sign.
            signs = np.sign(np.sum(got.a[layer] * a, axis=0))
            # Rounding to float32 is half an eps of each entry, at most sqrt(s). The vectors
            # themselves turn by 1e-16 s_1 / gap only: the gaps are s / 20 and more.
            atol = EPS * root[0]
            np.testing.assert_allclose(got.a[layer] * signs, a * root, rtol=0, atol=atol)
            np.testing.assert_allclose(
                got.b[layer] * signs[:, None], b * root[:, None], rtol=0, atol=atol
            )
            # A B is off by what rounding A and B leaves, R s_1 eps at the very most.
            rest = exact - (a * root) @ (root[:, None] * b)
            bound = 2 * EPS * s[start] * np.sqrt(rank) + EPS * np.abs(rest)
            assert (np.abs(got.residual[layer] - rest) <= bound).all(), kappa


@pytest.mark.parametrize("name", FACTORISATIONS)
@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_parts_make_the_whole(name, shape):
    w, r = stack(shape, 1), min(shape)
    eps = get_factorisation(name).eps
    # A route changes the factors, not which of them are taken; and of those that are taken the
    # test above has a program for the first route already.
    for where, rank in [("middle", 4), ("top", r)] if name == "svd_f64" else [("middle", 4)]:
        got = split(w, start_of(where, rank, r), rank, factorisation=name)
        for residual, a, b, whole in zip(*got, w):
            product = a.astype(np.float64) @ b.astype(np.float64)
            # The residual is rounded once, to half an eps of itself; before that the product
            # of `rank` terms and the difference were rounded in the working dtype.
            before = (rank + 2) * eps * (np.abs(a) @ np.abs(b) + np.abs(whole))
            error = np.abs(residual + product - whole.astype(np.float64))
            assert (error <= 0.5001 * EPS * np.abs(residual) + before).all()


def test_residual_makes_up_for_the_rounding_of_the_factors():
    rng = np.random.default_rng(2)
    small = 1e-4 * rng.standard_normal((24, 16))
    u, v = (matrices.orthonormal(rng, rows, 1) for rows in (24, 16))
    w = (1e3 * u @ v.T + small)[None].astype(np.float32)
    got = split(w, 0, 1)
    product = got.a[0].astype(np.float64) @ got.b[0].astype(np.float64)
    error = np.abs(got.residual[0] + product - w[0]).max()
    # What rounding A and B does to A B is 1e3 eps / 100 or more, and is in the residual.
    assert error <= EPS * np.abs(got.residual).max() < 1e-2 * EPS * np.abs(w).max()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_storage_dtypes(dtype):
    w = stack((16, 40), 3).astype(dtype)
    got = split(w, 0, 4)
    want = split(w.astype(np.float64), 0, 4)
    for one, other in zip(got, want):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def test_one_matrix_is_a_layer_of_a_stack():
    w = stack((40, 16), 4)
    single = jax.jit(functools.partial(split_matrix, start=6, rank=4))
    for one, many in zip(single(w[1]), split(w, 6, 4)):
        # Compiled apart, sums may be ordered differently in float64 and round the other way.
        np.testing.assert_allclose(one, many[1], rtol=EPS, atol=EPS)


@pytest.mark.parametrize("axis_type", ["Explicit", "Auto"])
@pytest.mark.parametrize("layers", [2, 3])
def test_sharded_equals_unsharded(layers, axis_type):
    mesh = jax.make_mesh((2,), ("layers",), (getattr(jax.sharding.AxisType, axis_type),))
    w = stack((40, 16), 5)[:layers]
    for alone, shared in zip(split(w, 1, 4), split(w, 1, 4, mesh=mesh)):
        assert shared.shape == alone.shape
        np.testing.assert_allclose(shared, alone, rtol=EPS, atol=EPS)  # as above


def test_matrices_that_lack_components():
    rng = np.random.default_rng(6)
    rank_two = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 8))
    w = np.stack([np.zeros((12, 8)), rank_two]).astype(np.float32)
    for start in (0, 2, 5):
        got = split(w, start, 3)
        assert all(np.isfinite(field).all() for field in got)
        whole = got.residual + got.a @ got.b
        np.testing.assert_allclose(whole, w, rtol=0, atol=20 * EPS * np.abs(w).max())


def test_where_the_components_begin():
    assert [start_of(where, 4, 16) for where in ("top", "middle", "bottom")] == [0, 6, 12]
    assert start_of("middle", 3, 16) == 6  # six before, seven after
    numbers: list[Any] = [5, "5", np.int64(5)]
    assert [start_of(number, 4, 16) for number in numbers] == [5, 5, 5]
    assert [start_of(where, 16, 16) for where in ("top", "middle", "bottom", 0)] == [0] * 4


@pytest.mark.parametrize(
    ("where", "rank", "message"),
    [
        ("top", 17, "rank 17: q_proj has 16 singular components, expected 1 to 16"),
        ("top", 0, "rank 0: .* expected 1 to 16"),
        ("top", 2.0, "rank 2.0: expected a whole number"),
        (13, 4, "components 13 to 16: q_proj has 16, expected a first one from 0 to 12"),
        (-1, 4, "components -1 to 2: .* from 0 to 12"),
        ("centre", 4, "components 'centre': expected top, middle, bottom or the number"),
        (1.5, 4, "components 1.5: expected top"),
        (None, 4, "components None: expected top"),
    ],
)
def test_components_that_are_not_there(where, rank, message):
    with pytest.raises(InputError, match=message):
        start_of(where, rank, 16, "q_proj")


def test_says_what_is_wrong_with_its_input():
    w = stack((16, 40))
    with pytest.raises(InputError, match="components 14 to 17: the matrix has 16"):
        split_stack(w, start=14, rank=4)
    with pytest.raises(InputError, match="rank 17"):
        split_matrix(w[0], start=0, rank=17)
    with pytest.raises(InputError, match=r"expected a shape \[layers, in, out\].*\[16, 40\]"):
        split_stack(w[0], start=0, rank=2)
    with pytest.raises(InputError, match="none of them 0"):
        split_stack(w[:0], start=0, rank=2)
    with pytest.raises(InputError, match="did you mean 'svd_f64'"):
        split_stack(w, start=0, rank=2, factorisation="svd_64")
    with pytest.raises(InputError, match="expected an axis 'layers'"):
        split_stack(w, start=0, rank=2, mesh=jax.make_mesh((2,), ("data",)))


def test_without_64_bit_types():
    w = stack((24, 24), 7)
    want = split(w, 0, 4)
    with jax.enable_x64(False):
        with pytest.raises(RuntimeError, match="64-bit types are off"):
            split_stack(w, start=0, rank=4)
        with working_precision("svd_f64"):
            got = split(w, 0, 4)
        single = split(w, 0, 4, factorisation="svd_f32")
    for one, other, rough in zip(got, want, single):
        np.testing.assert_array_equal(one, other)
        assert rough.dtype == np.float32


@pytest.mark.parametrize("shape", [(8192, 28672), (28672, 8192), (5120, 13824)])
def test_shapes_of_large_models(shape):
    stacked = jax.ShapeDtypeStruct((4, *shape), ml_dtypes.bfloat16)
    out = jax.eval_shape(lambda w: split_stack(w, start=100, rank=64), stacked)
    assert [field.shape for field in out] == [(4, *shape), (4, shape[0], 64), (4, 64, shape[1])]
