"""Linear centred kernel alignment (CKA) of stacks of representations.

Biased as Kornblith et al. 2019 (arXiv 1905.00414) define it, which is what the paper's figs. 6 and
19 show; debiased with the unbiased estimator of HSIC (Song et al. 2012, eq. 5) as Nguyen et al.
2021 (arXiv 2010.15327) use it. With few samples in many dimensions, as always here, the biased
value is high even for unrelated representations; the debiased one is then about 0.

Both are cosines between projected Gram matrices. The biased projection is H K H with
H = I - 11ᵀ/n. The unbiased one drops the diagonal and every part a_i + a_j of what is left (Székely
and Rizzo 2014, "U-centring"): inner products of such matrices are n (n - 3) times the estimator.

Axes: `L` blocks, `n` samples, `d` dimensions. All in float64, whatever comes in.
"""

from __future__ import annotations

import numpy as np

# What is left of a Gram matrix after the projection is rounding if it is below this share of the
# trace, which bounds the products that were added up.
_ROUNDING = 64 * np.finfo(np.float64).eps


def grams(x: np.ndarray) -> np.ndarray:
    """Gram matrices of centred representations, for `cka_from_grams`.

    Args:
        x: Representations [L, n, d], any float dtype.

    Returns:
        [L, n, n] float64, `Xc Xcᵀ` of each block; not finite where the block is not.

    Raises:
        ValueError: `x` has other axes.
    """
    if np.ndim(x) != 3:
        raise ValueError(f"x: shape {np.shape(x)}, expected [L, n, d]")
    products = np.empty((len(x), x.shape[1], x.shape[1]))
    for product, block in zip(products, x, strict=True):
        with np.errstate(all="ignore"):
            centred = np.asarray(block, np.float64)
            # From one sample first: exact where all are close to a large common mean, and exactly 0
            # where they are equal, so that the mean is one of small numbers.
            centred = centred - centred[:1]
            centred -= centred.sum(axis=0) / max(1, len(centred))
            product[...] = centred @ centred.T
    return products


def cka_from_grams(kx: np.ndarray, ky: np.ndarray, *, debiased: bool = False) -> np.ndarray:
    """CKA of every block of one model with every block of another.

    `cka = ‖Ycᵀ Xc‖² / (‖Xcᵀ Xc‖ ‖Ycᵀ Yc‖)` with centred columns and Frobenius norms; debiased,
    the same quotient with unbiased estimates. Orthogonal transforms, translations and isotropic
    scaling of either side change nothing.

    Args:
        kx: Gram matrices [Lx, n, n]; best those of `grams`, because a large common mean that is
            only taken out afterwards has already cost digits.
        ky: Gram matrices [Ly, n, n] of the same samples, in the same order.
        debiased: The unbiased estimator; it can be negative.

    Returns:
        [Lx, Ly] float64, at most 1; NaN where a representation is not finite or does not vary
        beyond rounding (debiased: where only one sample differs from the others, too).

    Raises:
        ValueError: Other numbers of samples, too few of them (2; debiased: 4), or other axes.
    """
    for name, stack in (("kx", kx), ("ky", ky)):
        if np.ndim(stack) != 3 or stack.shape[1] != stack.shape[2]:
            raise ValueError(f"{name}: shape {np.shape(stack)}, expected [L, n, n]")
    samples, least = kx.shape[1], 4 if debiased else 2
    if samples != ky.shape[1]:
        raise ValueError(
            f"x has {samples} samples and y has {ky.shape[1]}; CKA compares the same samples"
        )
    if samples < least:
        kind = "debiased CKA" if debiased else "CKA"
        raise ValueError(f"{samples} samples; {kind} needs at least {least}")
    kx = np.asarray(kx, np.float64)
    cosines = np.empty((len(kx), len(ky)))
    with np.errstate(all="ignore"):
        norms = np.array([_projected(gram, debiased)[1] for gram in kx])
        rows = kx.reshape(len(kx), samples**2)
        for column, gram in enumerate(ky):
            # An orthogonal projection on one side of an inner product does for both.
            cosines[:, column] = rows @ _projected(gram, debiased)[0].ravel() / norms
        return np.clip(cosines, -1.0, 1.0)


def _projected(gram: np.ndarray, debiased: bool) -> tuple[np.ndarray, float]:
    """The projected Gram matrix [n, n] with norm 1, and its norm before; NaN where undefined."""
    k = np.array(gram, np.float64)
    n, trace = len(k), float(np.abs(np.diagonal(k)).sum())
    if debiased:
        np.fill_diagonal(k, 0.0)
        sums = k.sum(axis=1)
        k -= (sums[:, None] + sums[None, :]) / (n - 2) - sums.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(k, 0.0)
    else:
        means = k.mean(axis=1)
        k -= means[:, None] + means[None, :] - means.mean()
    # Scaled before squaring, so that squares neither overflow nor vanish.
    largest = float(np.abs(k).max())
    norm = largest * float(np.linalg.norm(k / largest)) if largest > 0 else largest
    # Written so that NaN and infinity fail as well.
    if not _ROUNDING * trace < norm < np.inf:
        return np.full_like(k, np.nan), np.nan
    return k / norm, norm
