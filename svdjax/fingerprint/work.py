"""The pairs of checkpoints of a fingerprint, each a unit of work."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from svdjax.atomic import plain
from svdjax.checkpoint import input_digest, refuse_unused_base
from svdjax.checkpoint.hub import Streaming
from svdjax.engine.work.unit import Check, Piece, Unit
from svdjax.fingerprint.compare import compare_pair
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.layer import feed_forward_width
from svdjax.fingerprint.pair import Pair, open_pair


def open_pairs(
    job: FingerprintJob,
    digests: Mapping[str, Any] = types.MappingProxyType({}),
    check: Callable[[], None] = lambda: None,
) -> list[Pair]:
    """Each reference with the suspect, then the ancestor with the suspect and with the reference.

    Args:
        job: The checkpoints.
        digests: Of the same checkpoints, whose commits of the hub are read.
        check: Called while the hub is waited for; may raise to stop.

    Raises:
        InputError: A checkpoint cannot be read, or two cannot be compared.
    """
    streaming = Streaming.of(job, digests, check)
    ancestors = [job.ancestor] if job.ancestor else []
    sides = [(source, job.suspect) for source in (*job.references, *ancestors)]
    sides += [(source, job.references[0]) for source in ancestors]
    pairs = [open_pair(*pair, job.base, streaming) for pair in sides]
    opened = [side.checkpoint for pair in pairs for side in (pair.reference, pair.suspect)]
    refuse_unused_base(job.base, opened)
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
                cost=pair.reference.config.num_layers * feed_forward_width(pair.reference.config),
            )
            for number, pair in enumerate(self._pairs)
        ]

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Yields the comparison of each, as the JSON file has it."""
        for unit in units:
            pair = self._pairs[unit.task]
            yield Piece(unit, compare_pair(pair, self._job.thresholds, self._job.devices, check))
