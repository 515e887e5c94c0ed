"""Sums over slices of a long matrix are its matmul."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pytest

from svdjax.spectral import matmul, working_precision

BF16 = np.dtype(ml_dtypes.bfloat16)
# Shape, length of a slice, dtype. The long ones in seven to nine slices and in one; the last of
# several is shorter than the others, or not.
CASES = [
    *((shape, 100, "float64") for shape in [(700, 30), (30, 700), (701, 7), (900, 500)]),
    *((shape, 1024, "float64") for shape in [(24, 24), (1, 9), (700, 30), (30, 700), (900, 500)]),
    *((shape, 100, BF16) for shape in [(700, 30), (30, 700), (701, 7), (900, 500)]),
    *((shape, 1024, BF16) for shape in [(24, 24), (30, 700)]),
]


def short_rows(w, by):
    top = np.abs(w.astype(np.float64)).max()
    # bf16 has room in float64 as it is.
    np.testing.assert_allclose(by, 1 if w.dtype == BF16 else 1 / top, rtol=1e-15)
    w = w.astype(np.float64) * float(by)
    return w if w.shape[0] < w.shape[1] else w.T


@pytest.mark.parametrize(("shape", "length", "dtype"), CASES)
def test_products_of_slices_add_up(shape, length, dtype, monkeypatch):
    monkeypatch.setattr(matmul, "_SLICE", length)
    monkeypatch.setattr(matmul, "_SLICE_BYTES", 0)
    rng = np.random.default_rng(0)
    base, post = ((7 * rng.standard_normal(shape)).astype(dtype) for _ in range(2))

    @jax.jit
    def every(b, p):
        return (
            [matmul.scale(w, "float64") for w in (b, p)],
            [matmul.gram_of(w, "float64") for w in (b, p)],
            matmul.cross_of(b, p, "float64"),
        )

    with working_precision("gram_f64"):
        scales, grams, cross = jax.device_get(every(base, post))
    rows = short_rows(base, scales[0]), short_rows(post, scales[1])
    expected = rows[0] @ rows[0].T, rows[1] @ rows[1].T, rows[0] @ rows[1].T
    size = max(np.abs(w).max() for w in rows) ** 2
    # Sums of up to 900 terms of that size, in another order.
    for product, reference in zip(
        (*map(np.triu, grams), cross), (*map(np.triu, expected[:2]), expected[2])
    ):
        np.testing.assert_allclose(product, reference, rtol=0, atol=1e-12 * size)


@jax.jit
def scaled_gram(w):
    return matmul.gram_of(w, "float64"), matmul.scale(w, "float64")


def test_zeros_stay_zeros():
    with working_precision("gram_f64"):
        found, scale = scaled_gram(np.zeros((40, 6)))
    assert not np.any(found)
    assert scale == 1


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_size_does_not_matter(size):
    w = np.random.default_rng(1).standard_normal((40, 6))
    with working_precision("gram_f64"):
        one, other = (scaled_gram(x)[0] for x in (w, size * w))
    np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("bytes_", [1, 2**10, 2**20])
def test_sums_count_every_entry_once(bytes_, monkeypatch):
    monkeypatch.setattr(matmul, "_TERMS_BYTES", bytes_)
    rng = np.random.default_rng(2)
    base, post = (rng.standard_normal((37, 11)).astype(ml_dtypes.bfloat16) for _ in range(2))

    @jax.jit
    def totals(*both):
        return matmul.sum_terms(lambda b, p: b * p, both, "float64")

    with working_precision("gram_f64"):
        found = totals(base, post)
    b, p = base.astype(np.float64), post.astype(np.float64)
    np.testing.assert_allclose(found, np.sum(b * p), rtol=1e-13)
