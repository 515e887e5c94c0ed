"""Alignments of the suspect with the reference, and the agreement of their blocks under each.

Axes: `D` model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from svdjax.engine.progress import note
from svdjax.fingerprint.blocks import Blocks, assign_blocks, halves, spectral_distance
from svdjax.fingerprint.factored import FactoredLayer, compare_layers, factor_layers
from svdjax.fingerprint.layer import ATTENTION, FEED_FORWARD
from svdjax.fingerprint.pair import Pair
from svdjax.fingerprint.statistic import Agreement, Pooled, pool

AS_IT_IS, BY_EMBEDDINGS, BY_WEIGHTS = "as it is", "embeddings", "weights"
MODULES = {"self_attn": ATTENTION, "mlp": FEED_FORWARD}

# Another order than by number is measured where the singular values of some block are nearer there
# by a factor e in the variance of differences. Sampling alone moves the mean logarithm of variances
# of 100 singular values in 7 projections by 0.05, blocks of unrelated models differ by up to about
# 0.6; blocks that really are elsewhere gain 2 and more.
_NEARER = 1.0

Check = Callable[[str], None]
Block = tuple[int, int]


@dataclass
class Alignment:
    """A rotation (or one for each half of the blocks), pairs of blocks, and their agreement.

    Attributes:
        residual: Source of the rotation: "as it is", "embeddings" or "weights".
        rotations: Rotations R [D, D] for blocks of the first and of the second half; None is I.
        blocks: Pairs (reference layer, suspect layer).
        agreements: Agreement by projection of pairs of blocks, once measured.
        moved: Shares of heads and neurons that had to be moved in them.
    """

    residual: str
    rotations: tuple[np.ndarray | None, np.ndarray | None]
    blocks: Blocks
    agreements: dict[Block, Mapping[str, Agreement]] = field(default_factory=dict)
    moved: dict[Block, Mapping[str, float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The alignment in words, one for each that is tried."""
        in_order = all(reference == suspect for reference, suspect in self.blocks)
        return self.residual if in_order else f"{self.residual}, blocks by singular values"

    @property
    def in_halves(self) -> bool:
        """Whether each half of the blocks was aligned by means of the other."""
        return self.rotations[0] is not self.rotations[1]

    @property
    def rotation_size(self) -> float:
        """||R - I||_F / sqrt(2 D) of its rotation, 0 to about 1 (to 1.41)."""
        distances = [
            0.0 if r is None else np.linalg.norm(r - np.eye(len(r))) / np.sqrt(2 * len(r))
            for r in self.rotations
        ]
        return float(np.mean(distances))

    @property
    def pooled(self) -> Pooled:
        """Everything pooled: attention and feed-forward parts of a block each depend inside."""
        groups = (part for block in self.blocks for part in self.modules(block).values())
        return pool(groups, halves=self.in_halves)

    def modules(self, block: Block) -> dict[str, list[Agreement]]:
        """Agreements of a pair of blocks by module, "self_attn" and "mlp"."""
        agreements = self.agreements[block]
        modules = {
            module: [agreements[name] for name in names if name in agreements]
            for module, names in MODULES.items()
        }
        return {module: part for module, part in modules.items() if part}


class BlockComparison:
    """Measures blocks of a pair of models, one pair of blocks in memory at a time.

    Args:
        pair: The two models.
        mesh: Devices to factorise on.
        check: Called between blocks; may raise to stop.
    """

    def __init__(self, pair: Pair, mesh: jax.sharding.Mesh | None, check: Check):
        self.pair, self._mesh, self._check = pair, mesh, check
        self._depths = pair.reference.config.num_layers, pair.suspect.config.num_layers
        # Singular values by projection of the blocks of the reference and of the suspect.
        self._spectra: tuple[dict[int, Mapping[str, np.ndarray]], ...] = ({}, {})

    def measure(self, alignments: Sequence[Alignment]) -> None:
        """Measures what is not measured yet of alignments of the same blocks.

        Each pair of blocks is factorised once for all of them.
        """
        parity = dict(zip(alignments[0].blocks, halves(alignments[0].blocks)))
        blocks = [block for block in parity if block not in alignments[0].agreements]
        for number, block in enumerate(blocks, 1):
            self._check(f"at block {block[0]} of the reference")
            factored = self._factored(*block)
            for alignment in alignments:
                rotation = alignment.rotations[parity[block]]
                agreements, moved = compare_layers(*factored, rotation)
                alignment.agreements[block], alignment.moved[block] = agreements, moved
            note(f"compared {number}/{len(blocks)}: block {block[0]} with block {block[1]}")

    def blocks_by_number(self) -> Blocks | None:
        """Every block with the one of its number; None where depths differ."""
        depth, other = self._depths
        return [(n, n) for n in range(depth)] if depth == other else None

    def blocks_by_spectra(self) -> Blocks:
        """Blocks by their singular values, in any order (`assign_blocks`).

        Where depths are equal and no block that would move gains much by it, by number.
        """
        for number in range(max(self._depths)):
            block = tuple(min(number, depth - 1) for depth in self._depths)
            if block[0] not in self._spectra[0] or block[1] not in self._spectra[1]:
                self._check("while blocks were matched")
                self._factored(*block)
        reference, suspect = (
            [spectra[n] for n in range(depth)]
            for spectra, depth in zip(self._spectra, self._depths)
        )
        blocks = assign_blocks(reference, suspect)
        by_number = self.blocks_by_number()
        if by_number is None:
            return blocks
        gains = [
            spectral_distance(reference[b], suspect[b])
            - spectral_distance(reference[a], suspect[b])
            for a, b in blocks
            if a != b
        ]
        return blocks if max(gains, default=0.0) > _NEARER else by_number

    def _factored(self, reference: int, suspect: int) -> tuple[FactoredLayer, FactoredLayer]:
        layers = self.pair.reference.layer(reference), self.pair.suspect.layer(suspect)
        factored = factor_layers(layers, self._mesh, self.pair.projections)
        for spectra, number, layer in zip(self._spectra, (reference, suspect), factored):
            spectra[number] = {name: polar.sigma for name, polar in layer.factors.items()}
        return factored
