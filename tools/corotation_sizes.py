"""Where the co-rotation share stands for rotations: the table of docs/mathematics.md, section 9.

    python tools/corotation_sizes.py

For changes of growing size: the share of planted rotations, and of changes whose entries in base's
singular frame have given magnitudes and random signs, beside what an SVD says of these. Numpy only;
under a minute.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

SIZES = (0.001, 0.01, 0.03, 0.1, 0.3, 0.6)
"""||W_post - alpha W_base||_F / ||W_post||_F."""

SIGNS = 4000
"""Draws of signs for mean and deviation of the share, which take no SVD."""


def share_of(k: np.ndarray) -> tuple[float, float]:
    """Co-rotation share of K [r, r], and its standard deviation under random signs."""
    i, j = np.triu_indices(len(k), 1)
    products, squares = k[i, j] * k[j, i], k[i, j] ** 2 + k[j, i] ** 2
    return 0.5 + products.sum() / squares.sum(), np.sqrt((products**2).sum()) / squares.sum()


def nf_of(post: np.ndarray) -> float:
    """NF of W_post [r, r] given in base's singular frame: the distance of its polar factor."""
    u, _, vt = np.linalg.svd(post)
    return float(np.linalg.norm(u @ vt - np.eye(len(post))) / len(post))


def planted(s: np.ndarray, skew: np.ndarray, sign: float, size: float) -> np.ndarray:
    """W_post in base's frame: U turned by exp(t A), V by exp(sign t A), of a size set by t."""
    low, high = 0.0, 1.5 / np.linalg.norm(skew, 2)
    for _ in range(60):
        t = (low + high) / 2
        post = (scipy.linalg.expm(t * skew) * s) @ scipy.linalg.expm(sign * t * skew).T
        cosine = np.sum(np.diag(post) * s) / np.linalg.norm(s) / np.linalg.norm(post)
        low, high = (t, high) if 1 - cosine**2 < size**2 else (low, t)
    return post


def row(s: np.ndarray, size: float, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """One size: shares of planted rotations, and random signs judged by an SVD of each draw.

    Args:
        s: Singular values of base [r].
        size: Of the change.
        draws: How many draws of signs go through an SVD.
        rng: For magnitudes, signs and rotations.
    """
    r = len(s)
    skew = rng.standard_normal((r, r))
    skew = skew - skew.T
    magnitudes = np.abs(rng.standard_normal((r, r)))
    np.fill_diagonal(magnitudes, 0)
    magnitudes *= size / np.sqrt(1 - size**2) * np.linalg.norm(s) / np.linalg.norm(magnitudes)
    every = [share_of(magnitudes * rng.choice([-1.0, 1.0], (r, r)))[0] for _ in range(SIGNS)]
    shares, measured, predicted = np.empty((3, draws))
    for draw in range(draws):
        k = magnitudes * rng.choice([-1.0, 1.0], (r, r))
        shares[draw] = share_of(k)[0]
        measured[draw] = nf_of(np.diag(s) + k)
        predicted[draw] = np.linalg.norm((k - k.T) / np.add.outer(s, s)) / r
    return {
        "common": share_of(planted(s, skew, 1, size))[0],
        "opposite": share_of(planted(s, skew, -1, size))[0],
        "mean": float(np.mean(every)),
        "deviation": float(np.std(every) / share_of(magnitudes)[1]),
        "nf": float((measured / predicted).mean()),
        "correlation": float(np.corrcoef(shares, measured**2)[0, 1]),
    }


def main() -> None:
    """Prints the table in Markdown."""
    rng = np.random.default_rng(0)
    s = np.linalg.svd(rng.standard_normal((64, 64)), compute_uv=False)
    head = (
        "size",
        "c common",
        "c opposite",
        "c signs",
        "sd / formula",
        "NF / first order",
        "corr.",
    )
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for size in SIZES:
        values = row(s, size, 300, rng)
        print("| " + " | ".join([f"{size}", *(f"{value:.4f}" for value in values.values())]) + " |")


if __name__ == "__main__":
    main()
