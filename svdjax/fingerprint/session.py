"""What a worker keeps of a fingerprint: its pairs of checkpoints, opened there.

Imports no jax: a worker loads this before it has configured its process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdjax.fingerprint.job import FingerprintJob

if TYPE_CHECKING:
    from svdjax.engine.work.unit import Work


def open_session(job: FingerprintJob, digests: Mapping[str, Any]) -> FingerprintSession:
    """Opens a fingerprint's session on a worker; see `FingerprintSession`."""
    return FingerprintSession(job, digests)


class FingerprintSession:
    """A fingerprint on a worker; see `svdjax.engine.work.worker.Session`."""

    def __init__(self, job: FingerprintJob, digests: Mapping[str, Any]):
        """Opens all checkpoints.

        Args:
            job: With the devices of a worker.
            digests: Of the checkpoints, as the driver has them.

        Raises:
            InputError: One cannot be read here, or there are fewer devices than asked for.
        """
        from svdjax.engine import devices
        from svdjax.fingerprint.work import open_pairs

        self._job, self._pairs = job, open_pairs(job, digests)
        self._mesh = devices.layer_mesh(job.devices)

    def about(self) -> dict[str, Any]:
        """Versions, digests of the checkpoints, and kind of the devices."""
        from svdjax.engine import devices
        from svdjax.fingerprint.work import inputs

        return {
            "versions": devices.versions(),
            "inputs": inputs(self._pairs),
            "kind of device": self._mesh.devices.flat[0].device_kind,
            "devices": devices.describe(self._mesh),
        }

    def work(self, stage: str, shared: Any) -> Work:
        """What compares the pairs."""
        from svdjax.fingerprint.work import PairsWork

        del stage, shared
        return PairsWork(self._job, self._pairs)

    def close(self) -> None:
        """Has nothing on disk."""
