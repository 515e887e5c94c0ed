"""Ways to lay the suspect over the reference, and what each then shows.

Axes: `D` model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from svdjax.engine.progress import note
from svdjax.fingerprint.aligned import Factored, compare_layers
from svdjax.fingerprint.blocks import assign_blocks, spectral_distance
from svdjax.fingerprint.layer import ATTENTION, FEED_FORWARD
from svdjax.fingerprint.residual import Grams, from_grams, from_matches
from svdjax.fingerprint.sides import Pair, factor_both
from svdjax.fingerprint.statistic import Agreement, Pooled, pool

AS_IT_IS, BY_EMBEDDINGS, BY_WEIGHTS = "as it is", "embeddings", "weights"
MODULES = {"self_attn": ATTENTION, "mlp": FEED_FORWARD}

# Blocks of each half whose neurons refine a rotation: more say the same again.
_REFINING = 4
# Another order than by number is measured where the singular values of some block are nearer there
# by a factor e in the variance of differences. Sampling alone moves the mean logarithm of variances
# of 100 singular values in 7 projections by 0.05, blocks of unrelated models differ by up to about
# 0.6; blocks that really are elsewhere gain 2 and more.
_NEARER = 1.0

Blocks = Sequence[tuple[int, int]]
Check = Callable[[str], None]


@dataclass
class Candidate:
    """One rotation (or one for each half of the blocks), and the blocks seen through it.

    Attributes:
      residual: "as it is", "embeddings" or "weights".
      rotations: for blocks of the first and of the second half; None is the identity.
      blocks: pairs (reference layer, suspect layer).
      layers: agreement by projection, for each pair of blocks.
      moved: shares of heads and neurons that had to be moved, for each pair of blocks.
    """

    residual: str
    rotations: tuple[np.ndarray | None, np.ndarray | None]
    blocks: Blocks
    layers: list[Mapping[str, Agreement]] = field(default_factory=list)
    moved: list[Mapping[str, float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The alignment in words, one for each that is tried."""
        in_order = all(here == there for here, there in self.blocks)
        return self.residual if in_order else f"{self.residual}, blocks by singular values"

    @property
    def pooled(self) -> Pooled:
        """Everything pooled: attention and feed-forward parts of a block each depend inside."""
        groups = (
            agreements
            for number in range(len(self.layers))
            for agreements in self.modules(number).values()
        )
        return pool(groups, halves=self.in_halves)

    def modules(self, number: int) -> dict[str, list[Agreement]]:
        """The agreements of a pair of blocks by module, "self_attn" and "mlp"."""
        layer = self.layers[number]
        modules = {
            module: [layer[name] for name in names if name in layer]
            for module, names in MODULES.items()
        }
        return {module: agreements for module, agreements in modules.items() if agreements}

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


def halves(blocks: Blocks) -> list[int]:
    """0 or 1 for each pair: blocks of the reference in turns, copies of one in the same half."""
    place = {here: number for number, here in enumerate(sorted({here for here, _ in blocks}))}
    return [place[here] % 2 for here, _ in blocks]


class BlockComparison:
    """Measures blocks of a pair, one pair of blocks in memory at a time.

    Args:
      pair: the two sides.
      mesh: devices to factorise on.
      check: called between blocks; may raise to stop.
    """

    def __init__(self, pair: Pair, mesh: jax.sharding.Mesh | None, check: Check):
        self.pair, self._mesh, self._check = pair, mesh, check
        # Singular values by projection of the blocks of the reference and of the suspect.
        self._spectra: tuple[dict[int, Mapping[str, np.ndarray]], ...] = ({}, {})

    def measure(self, candidates: Sequence[Candidate]) -> None:
        """Fill in candidates of the same blocks; each pair is factorised once for all of them."""
        blocks = candidates[0].blocks
        parity = halves(blocks)
        for number, (here, there) in enumerate(blocks):
            self._check(f"at block {here} of the reference")
            factored = self._factored(here, there)
            for candidate in candidates:
                layers, moved = compare_layers(*factored, candidate.rotations[parity[number]])
                candidate.layers.append(layers)
                candidate.moved.append(moved)
            note(f"compared {number + 1}/{len(blocks)}: block {here} with block {there}")

    def reordered(self, candidates: Sequence[Candidate], blocks: Blocks) -> list[Candidate]:
        """The same rotations over other pairs of blocks; what was measured already is taken over.

        Args:
          candidates: with one rotation each for all blocks, measured.
          blocks: the other pairs.
        """
        before = {pair: number for number, pair in enumerate(candidates[0].blocks)}
        fresh = [pair for pair in blocks if pair not in before]
        others = [Candidate(each.residual, each.rotations, fresh) for each in candidates]
        if fresh:
            self.measure(others)
        place = {pair: number for number, pair in enumerate(fresh)}
        merged = []
        for old, new in zip(candidates, others):
            whole = Candidate(old.residual, old.rotations, blocks)
            for pair in blocks:
                source, number = (new, place[pair]) if pair in place else (old, before[pair])
                whole.layers.append(source.layers[number])
                whole.moved.append(source.moved[number])
            merged.append(whole)
        return merged

    def blocks_by_number(self) -> Blocks | None:
        """Every block with the one of its number; None where depths differ."""
        depths = self._depths()
        return [(n, n) for n in range(depths[0])] if depths[0] == depths[1] else None

    def blocks_by_spectra(self) -> Blocks:
        """Blocks by their singular values, in any order (see `assign_blocks`).

        Where depths are equal and no block that would move gains much by it, by number.
        """
        depths = self._depths()
        for number in range(max(depths)):
            here, there = (min(number, depth - 1) for depth in depths)
            if here in self._spectra[0] and there in self._spectra[1]:
                continue
            self._check("while blocks were matched")
            self._factored(here, there)
        spectra = [[side[n] for n in range(d)] for side, d in zip(self._spectra, depths)]
        blocks = assign_blocks(*spectra)
        by_number = self.blocks_by_number()
        moved = [pair for pair in blocks if pair[0] != pair[1]]
        if by_number is None or not moved:
            return blocks
        reference, suspect = spectra
        gains = [
            spectral_distance(reference[there], suspect[there])
            - spectral_distance(reference[here], suspect[there])
            for here, there in moved
        ]
        return blocks if max(gains) > _NEARER else by_number

    def _depths(self) -> tuple[int, int]:
        return self.pair.reference.config.num_layers, self.pair.suspect.config.num_layers

    def _factored(self, here: int, there: int) -> tuple[Factored, Factored]:
        layers = self.pair.reference.layer(here), self.pair.suspect.layer(there)
        factored = factor_both(layers, self._mesh, self.pair.projections)
        for spectra, number, side in zip(self._spectra, (here, there), factored):
            spectra[number] = side.sigma
        return factored


def rotations_from_weights(
    pair: Pair, blocks: Blocks, check: Check
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rotations found without embeddings: each half of the blocks gives the one for the other half.

    None where one half has no block, or feed-forward parts cannot be matched.
    """
    parity = halves(blocks)
    if len(set(parity)) < 2 or "gate_proj" not in pair.projections:
        return None
    width = pair.reference.config.hidden_size
    grams = [Grams(width, len(blocks)) for _ in range(2)]
    for half, (here, there) in zip(parity, blocks):
        check("while the residual streams were matched")
        grams[0].add(pair.reference.layer(here), half)
        grams[1].add(pair.suspect.layer(there), half)
    rotations = []
    for half in (1, 0):
        check("while the residual streams were matched")
        rotation = from_grams(grams[0].sums[half], grams[1].sums[half])
        members = [block for block, side in zip(blocks, parity) if side == half]
        chosen = members[:: max(1, len(members) // _REFINING)][:_REFINING]
        matched = [(pair.reference.layer(a), pair.suspect.layer(b)) for a, b in chosen]
        rotations.append(from_matches(matched, rotation))
    return rotations[0], rotations[1]
