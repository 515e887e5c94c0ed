"""Ways to lay the suspect's residual stream over the reference's, and what each then shows.

Axes: `D` model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from svdjax.descent import (
    Agreement,
    Factored,
    Grams,
    Pooled,
    compare_layers,
    from_grams,
    from_matches,
    match_depth,
    pool,
)
from svdjax.descent.layer import ATTENTION, FEED_FORWARD
from svdjax.engine.descent.sides import Pair, factor_both
from svdjax.engine.progress import note

# Blocks of each half whose neurons refine a rotation: more say the same again.
_REFINING = 4

Blocks = Sequence[tuple[int, int]]
Check = Callable[[str], None]


@dataclass
class Candidate:
    """One rotation (or one for even and one for odd blocks), and the blocks seen through it.

    Attributes:
      name: "as it is", "embeddings" or "weights".
      rotations: for blocks of even and of odd number; None is the identity.
      layers: agreement by projection, for each pair of blocks.
      moved: shares of heads and neurons that had to be moved, likewise.
    """

    name: str
    rotations: tuple[np.ndarray | None, np.ndarray | None]
    layers: list[Mapping[str, Agreement]] = field(default_factory=list)
    moved: list[Mapping[str, float]] = field(default_factory=list)

    @property
    def pooled(self) -> Pooled:
        """Everything pooled: attention and feed-forward parts of a block each depend inside."""
        groups = (
            [layer[name] for name in part if name in layer]
            for layer in self.layers
            for part in (ATTENTION, FEED_FORWARD)
        )
        return pool(groups, halves=self.in_halves)

    @property
    def in_halves(self) -> bool:
        """Whether each half of the blocks was aligned by means of the other."""
        return self.rotations[0] is not self.rotations[1]

    def turn(self) -> float:
        """How far its rotation is from none: ||R - I||_F / sqrt(2 D), 0 to about 1 (to 1.41)."""
        distances = [
            0.0 if r is None else np.linalg.norm(r - np.eye(len(r))) / np.sqrt(2 * len(r))
            for r in self.rotations
        ]
        return float(np.mean(distances))


def measure(
    pair: Pair,
    blocks: Blocks,
    candidates: Sequence[Candidate],
    mesh: jax.sharding.Mesh | None,
    check: Check,
) -> None:
    """Fill the candidates in, a block at a time, factorised once for all of them."""
    for number, (here, there) in enumerate(blocks):
        check(f"at block {here} of the reference")
        both = _factored(pair, here, there, mesh)
        for one in candidates:
            found, moved = compare_layers(*both, one.rotations[number % 2])
            one.layers.append(found)
            one.moved.append(moved)
        note(f"compared {number + 1}/{len(blocks)}: block {here} with block {there}")


def pair_blocks(pair: Pair, mesh: jax.sharding.Mesh | None, check: Check) -> Blocks:
    """Which block is held against which: by number, or by singular values where depths differ."""
    depths = pair.reference.config.num_layers, pair.suspect.config.num_layers
    if depths[0] == depths[1]:
        return match_depth([{}] * depths[0], [{}] * depths[1])
    note(f"{depths[0]} and {depths[1]} blocks: matching them by their singular values")
    spectra: tuple[list[Mapping[str, np.ndarray]], ...] = ([], [])
    for number in range(max(depths)):
        check("while blocks were matched")
        here, there = (min(number, depth - 1) for depth in depths)
        both = _factored(pair, here, there, mesh)
        for side in range(2):
            if number < depths[side]:
                spectra[side].append(both[side].sigma)
    return match_depth(*spectra)


def rotations_from_weights(
    pair: Pair, blocks: Blocks, check: Check
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rotations found without embeddings: odd blocks give the one for even blocks, and vice versa.

    None where one half has no block, or feed-forward parts cannot be matched.
    """
    if len(blocks) < 2 or "gate_proj" not in pair.projections:
        return None
    width = pair.reference.config.hidden_size
    grams = [Grams(width, len(blocks)) for _ in range(2)]
    for number, (here, there) in enumerate(blocks):
        check("while the residual streams were matched")
        grams[0].add(pair.reference.layer(here), number)
        grams[1].add(pair.suspect.layer(there), number)
    found = []
    for half in (1, 0):
        check("while the residual streams were matched")
        rotation = from_grams(grams[0].sums[half], grams[1].sums[half])
        chosen = blocks[half::2][:: max(1, len(blocks[half::2]) // _REFINING)][:_REFINING]
        matched = [(pair.reference.layer(a), pair.suspect.layer(b)) for a, b in chosen]
        found.append(from_matches(matched, rotation))
    return found[0], found[1]


def _factored(
    pair: Pair, here: int, there: int, mesh: jax.sharding.Mesh | None
) -> tuple[Factored, Factored]:
    layers = pair.reference.layer(here), pair.suspect.layer(there)
    return factor_both(layers, mesh, pair.projections)
