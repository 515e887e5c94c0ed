"""The pairs of checkpoints of a fingerprint, each a unit of work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from svdjax.atomic import plain
from svdjax.checkpoint import input_digest, refuse_unused_base
from svdjax.engine.work.unit import Check, Piece, Unit
from svdjax.fingerprint.compare import compare_pair
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.pair import Pair, open_pair


def open_pairs(job: FingerprintJob) -> list[Pair]:
    """Each reference with the suspect, then the ancestor with the suspect and with the reference.

    Raises:
        InputError: A checkpoint cannot be read, or two cannot be compared.
    """
    ancestors = [job.ancestor] if job.ancestor else []
    sources = (*job.references, *ancestors)
    pairs = [open_pair(source, job.suspect, job.base) for source in sources]
    pairs += [open_pair(source, job.references[0], job.base) for source in ancestors]
    sides = [side.checkpoint for pair in pairs for side in (pair.reference, pair.suspect)]
    refuse_unused_base(job.base, sides)
    return pairs


def inputs(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Digests of the checkpoints by source."""
    models = {
        str(model.checkpoint.source): model
        for pair in pairs
        for model in (pair.reference, pair.suspect)
    }
    return {source: plain(input_digest(model.checkpoint)) for source, model in models.items()}


class PairsWork:
    """What compares pairs of checkpoints; see `svdjax.engine.work.unit.Work`."""

    name, reads_ahead = "fingerprint", False

    def __init__(self, job: FingerprintJob, pairs: Sequence[Pair]):
        """`pairs`: as `open_pairs` returns them."""
        self._job, self._pairs = job, pairs

    def units(self) -> list[Unit]:
        """A unit for each pair, its number."""
        return [
            Unit(
                key=str(number),
                label=f"{pair.reference.checkpoint.source} and {pair.suspect.checkpoint.source}",
                task=number,
                # Factors of two blocks for each of the reference's.
                cost=pair.reference.config.num_layers * pair.reference.config.intermediate_size,
            )
            for number, pair in enumerate(self._pairs)
        ]

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Yields the comparison of each, as the JSON file has it."""
        for unit in units:
            pair = self._pairs[unit.task]
            yield Piece(unit, compare_pair(pair, self._job.thresholds, self._job.devices, check))
