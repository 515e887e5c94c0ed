"""Analytic nulls: the NF of a change of the same size in random directions, in numpy.

Axis legend: `L` layers, `R` = min(in, out), `T` nodes of the quadrature.

The null model of a pair (*derived*, docs/mathematics.md, 6) is ``alpha W_base + Delta`` with Delta
random, of the Frobenius norm of the real ``W_post - alpha W_base``, alpha by least squares. Below,
sigma are the singular values of ``|alpha| W_base`` and ``s^2 = ||Delta||_F^2 / (in out)``.
"""

from __future__ import annotations

import math

import numpy as np

SMALL_ENOUGH = 0.03, 0.3
"""Up to where the first order holds: of (max - min) s^2 / sigma_R^2 for tall and wide matrices, of
s^2 sum_j 1/sigma_j^2 for square ones."""
MANY = 50.0
"""From what r^2 NF^2 on the expectation over all orders is that of one matrix: below, a few nearly
equal or nearly vanishing singular values decide it, and single draws differ by more than 2 %."""
ROUNDING = {"bfloat16": 1.7e-3, "float16": 1.7e-3 / 8}
"""Relative Frobenius size of the change that rounding to a storage dtype alone makes."""

_PANEL, _STEPS = 16, 60
_EPS = float(np.finfo(np.float64).eps)


def scaled_base(sigma_base: np.ndarray, alpha: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Singular values of alpha W_base, those below its numerical rank exactly 0, [L, R].

    Args:
        sigma_base: Singular values of W_base, descending, [L, R].
        alpha: The scale of each layer, [L]; its sign does not enter.
        shape: (in, out).
    """
    sigma = np.asarray(sigma_base, np.float64)
    live = sigma > max(shape) * _EPS * sigma[:, :1]
    return np.where(live, sigma, 0.0) * np.abs(np.asarray(alpha, np.float64))[:, None]


def entry_scale(norm_delta: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """s = ||Delta||_F / sqrt(in out), the root mean square entry of Delta, [L]."""
    return np.asarray(norm_delta, np.float64) / math.sqrt(math.prod(shape))


def first_order(sigma: np.ndarray, s: float) -> float:
    """RMS of NF under a small random Delta: r^2 NF^2 = sum_{i != j} 2 s^2 / (sigma_i + sigma_j)^2.

    It holds for any Delta of that norm whose singular vectors are random, whatever its spectrum.

    Args:
        sigma: Singular values of alpha W_base, [R].
        s: Root mean square entry of Delta.

    Returns:
        NF; NaN where two of the sigma are 0.
    """
    sums = sigma[:, None] + sigma[None, :]
    np.fill_diagonal(sums, np.inf)
    if not (sums > 0).all():
        return math.nan
    return float(s * math.sqrt(2 * np.sum(sums**-2.0)) / len(sigma))


def first_order_holds(sigma: np.ndarray, s: float, shape: tuple[int, int]) -> bool:
    """Whether Delta is small enough for `first_order`; see `SMALL_ENOUGH`."""
    if not sigma[-1] > 0:
        return False
    least, square = SMALL_ENOUGH
    if shape[0] == shape[1]:
        return bool(s**2 * np.sum(sigma**-2.0) <= square)
    return bool(abs(shape[0] - shape[1]) * (s / sigma[-1]) ** 2 <= least)


def all_orders(
    sigma: np.ndarray, s: float, shape: tuple[int, int], *, negative: bool = False
) -> float:
    """Expected NF under a Gaussian Delta of any size.

    For t >= 0 let q(t) be the root of ``q = t^2/k^2 + s^2 (R - r)/k``,
    ``k = 1 - s^2 sum_j 1/(sigma_j^2 + q) > 0``, R = max(in, out), r = min(in, out); then

      r^2 NF^2 = (4/pi) int_0^inf sum_{sigma_j > 0} sigma_j (q - t^2)
                 / ((sigma_j^2 + t^2)(sigma_j^2 + q)) dt
                 + 2 #{sigma_j = 0} - (R - r) s^2 sum_j 1/(sigma_j^2 + q(0)).

    The integral is 2 (r - E tr I_orth), what is subtracted E of how far one rotation is from
    square orthogonal. It runs from `first_order` for small s to the level of unrelated matrices.

    Args:
        sigma: Singular values of |alpha| W_base, descending, [R]; zeros are allowed.
        s: Root mean square entry of Delta.
        shape: (in, out).
        negative: Alpha is below 0, which turns the sign of the trace.

    Returns:
        NF, the square root of the mean square.
    """
    r, R = min(shape), max(shape)
    if not s > 0:
        return 2 / math.sqrt(r) if negative else 0.0
    live = sigma[sigma > 0]
    lowest = min(float(live[-1]), s * math.sqrt(R)) if live.size else s * math.sqrt(R)
    highest = max(float(sigma[0]), s * math.sqrt(R))
    t, weight = _nodes(1e-5 * lowest, 1e5 * highest)
    q, rise = _root(t, sigma, s, R - r)
    terms = live / ((live**2 + t[:, None] ** 2) * (live**2 + q[:, None]))
    integrand = rise * terms.sum(axis=1)
    # Below the first node the integrand is level.
    integral = integrand @ weight + integrand[0] * t[0]
    trace = 4 / math.pi * integral + 2 * (r - live.size)
    if negative:
        trace = 4 * r - trace
    tilt = 0.0
    if r < R:
        q0 = _root(np.zeros(1), sigma, s, R - r)[0]
        tilt = (R - r) * s**2 * float(np.sum(1 / (sigma**2 + q0)))
    return math.sqrt(max(trace - tilt, 0.0)) / r


def all_orders_hold(nf: float, shape: tuple[int, int]) -> bool:
    """Whether an expectation that `all_orders` returned is within 2 % of Gaussian draws."""
    return (min(shape) * nf) ** 2 >= MANY


def _nodes(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights in log t, a panel a decade."""
    panels = max(1, math.ceil(math.log10(high / low)))
    x, w = np.polynomial.legendre.leggauss(_PANEL)
    edges = np.linspace(math.log(low), math.log(high), panels + 1)
    half = (edges[1] - edges[0]) / 2
    t = np.exp(((edges[:-1] + half)[:, None] + half * x).ravel())
    return t, np.tile(half * w, panels) * t


def _root(t: np.ndarray, sigma: np.ndarray, s: float, excess: int) -> tuple[np.ndarray, np.ndarray]:
    """q(t) by bisection on its logarithm, and q - t^2 without cancellation, both [T]."""
    squares = sigma**2
    # q >= t^2 and q >= s^2 (R - r); at four times (t^2 + s^2 R) the right side is below q.
    low = np.log(np.maximum(t**2, s**2 * excess))
    high = np.log(4 * (t**2 + s**2 * (excess + len(sigma))))

    def loss(q: np.ndarray) -> np.ndarray:
        return s**2 * np.sum(1 / (squares + q[:, None]), axis=1)

    for _ in range(_STEPS):
        middle = (low + high) / 2
        q = np.exp(middle)
        k = 1 - loss(q)
        with np.errstate(divide="ignore"):
            above = (k > 0) & (q > t**2 / k**2 + s**2 * excess / k)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    q = np.exp(high)
    lost = loss(q)
    k = 1 - lost
    # Where q is close to t^2 k tells their difference; where it is not, k may be all rounding.
    near = q < 2 * t**2
    k = np.where(near, k, 1.0)
    return q, np.where(near, t**2 * lost * (1 + k) / k**2 + s**2 * excess / k, q - t**2)
