"""Settings of the null models: the leaves ``config.nulls``, checked without jax."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax.fields import setting


@dataclass(frozen=True, kw_only=True)
class NullOptions:
    """Number of draws and of sampled layers, and the seed."""

    draws: int = setting(
        19,
        "Draws of each kind for a sampled matrix: the change with random signs, which judges NF "
        "and scaling, and in random directions, which tell where it lies. With fewer than 19 "
        "nothing is judged; 0 draws none: formulas for random directions only.",
        least=0,
    )
    layers: int = setting(
        3,
        "Most layers of each projection that are sampled, which bounds the cost: those where no "
        "formula holds first, evenly spread. 0 samples all.",
        least=0,
    )
    seed: int = setting(0, "Of the draws.", least=0, below=2**32)
