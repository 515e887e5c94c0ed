"""The equations of the analysis in numpy float64, one by one, sharing no code with the kernels.

Products are formed as the equations have them: NF from I_orth - I, fits from the fitted matrix.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg


def svd(w):
    """U, s, V of one matrix, by the QR driver (the kernels use divide and conquer)."""
    u, s, vt = scipy.linalg.svd(
        np.asarray(w, np.float64), full_matrices=False, lapack_driver="gesvd"
    )
    return u, s, vt.T


def polar(m):
    """Orthogonal polar factor."""
    u, _, v = svd(m)
    return u @ v.T


def rank(s, shape, eps):
    """Number of singular values above max(in, out) eps s_1."""
    return int(np.sum(s > max(shape) * eps * s[0]))


def fit(w_base, w_post, rotation, *, positive=False):
    """Eq. 8 with a given Q: (alpha by least squares, relative error)."""
    u, s, v = svd(w_base)
    model = (u @ rotation) @ np.diag(s) @ (v @ rotation).T
    alpha = np.sum(w_post * model) / np.sum(model * model)
    if positive:
        alpha = max(alpha, 0.0)
    return alpha, np.linalg.norm(w_post - alpha * model) / np.linalg.norm(w_post)


def optimal_rotation(w_base, w_post):
    """Q of the best fit: eigenvectors of sym(U_base^T W_post V_base), eigenvalues descending."""
    u, _, v = svd(w_base)
    k = u.T @ w_post @ v
    return np.linalg.eigh((k + k.T) / 2)[1][:, ::-1]


def gaps(s):
    """Distance to the nearest other singular value, relative to itself."""
    others = [np.abs(np.delete(s, j) - s[j]).min() for j in range(s.size)]
    return np.array(others) / s


def pair(w_base, w_post, corner=25):
    """Every field for two matrices of full rank, as a dict."""
    w_base, w_post = np.asarray(w_base, np.float64), np.asarray(w_post, np.float64)
    (rows, columns), r = w_base.shape, min(w_base.shape)
    ub, sb, vb = svd(w_base)
    up, sp, vp = svd(w_post)
    q1, q2 = ub.T @ up, vb.T @ vp
    i_orth = q1.T @ q2
    alpha = np.sum(w_base * w_post) / np.sum(w_base**2)
    common = polar(q1 + q2)
    d1, d2, eye = common.T @ q1, common.T @ q2, np.eye(r)
    # An orthogonal matrix of determinant -1 has the eigenvalue -1: Q1 + Q2 is singular.
    once = np.nan if rows == columns and np.linalg.det(i_orth) < 0 else 1.0
    fits = {
        "identity": fit(w_base, w_post, eye),
        "q1": fit(w_base, w_post, polar(q1)),
        "q2": fit(w_base, w_post, polar(q2)),
        "common": fit(w_base, w_post, common),
        "optimal": fit(w_base, w_post, optimal_rotation(w_base, w_post), positive=True),
    }
    return {
        "sigma_base": sb,
        "sigma_post": sp,
        "svsm": sp / sb,
        "nf": np.linalg.norm(i_orth - eye) / r,
        "nf_rank": np.linalg.norm(i_orth - eye) / r,
        "trace": np.trace(i_orth),
        "diag": np.diag(i_orth),
        "sim_u": np.abs(q1)[:corner, :corner],
        "sim_v": np.abs(q2)[:corner, :corner],
        "i_orth": i_orth[:corner, :corner],
        "gap_base": gaps(sb),
        "gap_post": gaps(sp),
        "norm_base": np.linalg.norm(w_base),
        "norm_post": np.linalg.norm(w_post),
        "norm_delta": np.linalg.norm(w_post - alpha * w_base),
        "alpha_ls": alpha,
        "common_sigma_min": np.linalg.svd(q1 + q2, compute_uv=False)[-1],
        **corotation(ub, vb, w_post - alpha * w_base),
        "small_delta_share": r * (r - 1) / (2 * rows * columns),
        "residual_q1": once * np.linalg.norm(d1 - eye) / r,
        "residual_q2": once * np.linalg.norm(d2 - eye) / r,
        "residual_asymmetry": once * np.linalg.norm(d1 - d2) / r,
        **{
            f"fit_{name}_alpha": a * (once if name == "common" else 1)
            for name, (a, _) in fits.items()
        },
        **{
            f"fit_{name}_error": e * (once if name == "common" else 1)
            for name, (_, e) in fits.items()
        },
    }


def corotation(u, v, delta):
    """Co-rotation share of a change, pair by pair of directions of base."""
    k = u.T @ delta @ v
    i, j = np.triu_indices(len(k), 1)
    products, squares = k[i, j] * k[j, i], k[i, j] ** 2 + k[j, i] ** 2
    share = 0.5 + products.sum() / squares.sum()
    std = np.sqrt((products**2).sum()) / squares.sum()
    return {
        "corotation": share,
        "corotation_std": std,
        "norm_offdiag": np.sqrt(squares.sum()),
        "outside_share": 1 - np.sum(k**2) / np.sum(delta**2),
    }


def polar_extended(w):
    """Polar factor of a tall or wide matrix in 80-bit arithmetic, by products alone.

    The quintic Newton-Schulz iteration; its error is about 1e-19 kappa, a thousandth of what
    float64 can reach.
    """
    x = np.asarray(w, np.longdouble)
    if x.shape[0] < x.shape[1]:
        return polar_extended(x.T).T
    eye = np.eye(x.shape[1], dtype=np.longdouble)
    x = x / np.sqrt(np.sum(x * x))
    for _ in range(200):
        gram = x.T @ x
        if np.abs(gram - eye).max() < 1e-17:
            return x
        x = x @ (15 * eye - 10 * gram + 3 * (gram @ gram)) / 8
    raise ArithmeticError("the iteration did not converge")


def nf_extended(w_base, w_post):
    """NF from polar factors in 80-bit arithmetic."""
    base, post = polar_extended(w_base), polar_extended(w_post)
    tall = base.shape[0] >= base.shape[1]
    turn = post.T @ base if tall else base @ post.T
    distance = turn - np.eye(turn.shape[0], dtype=np.longdouble)
    return np.sqrt(np.sum(distance * distance)) / turn.shape[0]


def constructed(name, w_base, w_post, *, alpha=1.0, aligned=False):
    """The new W_post of eqs. 9 to 16, as the paper writes them.

    Raw ablations are only defined up to the signs of pairs: use `aligned`, or compare columns.
    """
    w_base, w_post = np.asarray(w_base, np.float64), np.asarray(w_post, np.float64)
    ub, sb, vb = svd(w_base)
    up, sp, vp = svd(w_post)
    if aligned:
        flip = np.where(np.sum(ub * up, 0) + np.sum(vb * vp, 0) < 0, -1.0, 1.0)
        up, vp = up * flip, vp * flip
    return {
        "eq9": lambda: up @ np.diag(alpha * sb) @ vp.T,
        "eq10": lambda: up @ np.diag(sp) @ vb.T,
        "eq11": lambda: up @ np.diag(sp) @ (vb @ ub.T @ up).T,
        "eq12": lambda: up @ np.diag(sp) @ (vb @ ub.T @ up).T,
        "eq14": lambda: up @ np.diag(sb) @ vp.T,
        "eq15": lambda: ub @ np.diag(sp) @ vp.T,
        "eq16": lambda: (ub @ vb.T @ vp) @ np.diag(sp) @ vp.T,
    }[name]()


def controlled(name, w_base, w_post, distance, direction):
    """The controls of a construction at a distance of W_post; noise along `direction`."""
    w_base, w_post = np.asarray(w_base, np.float64), np.asarray(w_post, np.float64)
    whole = np.linalg.norm(w_post - w_base)
    s = max(0.0, 1 - distance / whole) if whole else 1.0
    return {
        "noise": lambda: w_post + distance * direction / np.linalg.norm(direction),
        "interpolated": lambda: w_base + s * (w_post - w_base),
        "reverted": lambda: w_base,
    }[name]()


def surviving(new, w_base, w_post):
    """<W' - alpha W_base, Delta> / ||Delta||^2, Delta = W_post - alpha W_base by lstsq."""
    new, w_base, w_post = (np.asarray(w, np.float64).ravel() for w in (new, w_base, w_post))
    alpha = np.linalg.lstsq(w_base[:, None], w_post, rcond=None)[0][0]
    delta = w_post - alpha * w_base
    return (new - alpha * w_base) @ delta / (delta @ delta)
