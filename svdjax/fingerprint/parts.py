"""The parts of a model judged one by one: both modules of each layer, embeddings and head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svdjax.fingerprint.alignment import BY_EMBEDDINGS, Alignment
from svdjax.fingerprint.embeddings import EmbeddingSums
from svdjax.fingerprint.statistic import Pooled, p_value, pool
from svdjax.fingerprint.verdict import RELATED, Thresholds, decide


@dataclass(frozen=True)
class Part:
    """One part of the suspect and what it has in common with the reference.

    Attributes:
        module: "self_attn", "mlp", "embeddings" or "head".
        reference: Number of the reference's layer; None for embeddings and head.
        suspect: Number of the suspect's layer; None for embeddings and head.
        pooled: Its matrices as one.
        log10_p: Decimal logarithm of its p-value, corrected for the numbers of parts and
            alignments.
        verdict: "related", "undecided" or "unrelated".
    """

    module: str
    reference: int | None
    suspect: int | None
    pooled: Pooled
    log10_p: float
    verdict: str

    @property
    def name(self) -> str:
        """Its name: "layers.3.mlp" (the suspect's number), "embeddings" or "head"."""
        return self.module if self.suspect is None else f"layers.{self.suspect}.{self.module}"

    @property
    def distance(self) -> float:
        """1 - tr(I_orth) / r of its matrices: 0 same, about 1 unrelated."""
        return 1 - self.pooled.effect

    def content(self) -> dict[str, Any]:
        """Its entry in the file."""
        return {
            "part": self.name,
            "module": self.module,
            "reference": self.reference,
            "suspect": self.suspect,
            "verdict": self.verdict,
            "distance": self.distance,
            "z": self.pooled.z,
            "p_value": p_value(self.log10_p),
            "log10_p_value": self.log10_p,
        }


def judge_parts(
    alignment: Alignment, embeddings: EmbeddingSums, thresholds: Thresholds, tried: int
) -> list[Part]:
    """Every part under one alignment: layers in the suspect's order, then embeddings and head.

    Embeddings of models of alike data resemble one another up to a rotation, and so do heads. So
    they are compared as they are or under a rotation that they had no share in; where it was found
    from them, only if it makes layers agree, each half of the tokens then under the one that the
    other half gives.

    Args:
        alignment: The alignment, measured.
        embeddings: Sums over the rows of embeddings and heads.
        thresholds: Distances and p-value at which the verdict changes.
        tried: Number of alignments that were tried.
    """
    layers = {
        (module, *block): pool([agreements])
        for block in alignment.blocks
        for module, agreements in alignment.modules(block).items()
    }
    correction = math.log10(tried * (len(layers) + len(embeddings.sums)))

    def judged(module: str, reference: int | None, suspect: int | None, pooled: Pooled) -> Part:
        log10 = min(0.0, pooled.log10_p + correction)
        verdict = decide(1 - pooled.effect, log10, thresholds)
        return Part(module, reference, suspect, pooled, log10, verdict)

    parts = [judged(*place, pooled) for place, pooled in layers.items()]
    if alignment.residual == BY_EMBEDDINGS and related(parts):
        rows = {
            name: pool([[half] for half in halves], halves=True)
            for name, halves in embeddings.agreements_in_halves().items()
        }
    else:
        rotation = None if alignment.residual == BY_EMBEDDINGS else alignment.rotations[0]
        agreements = embeddings.agreements(rotation)
        rows = {name: pool([[agreement]]) for name, agreement in agreements.items()}
    parts += [judged(name, None, None, pooled) for name, pooled in rows.items()]
    return [part for part in parts if not math.isnan(part.distance)]


def related(parts: Sequence[Part]) -> list[Part]:
    """The parts that are related."""
    return [part for part in parts if part.verdict == RELATED]


def of_layers(parts: Sequence[Part]) -> list[Part]:
    """The parts that are modules of layers: neither embeddings nor head."""
    return [part for part in parts if part.suspect is not None]
