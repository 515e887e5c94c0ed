"""Getting work onto devices: groups under a byte budget, prefetch, compute, journal, results.

`compare` analyses one pair in memory, `run_sweep` many pairs into a directory that survives being
killed, `dry_run` tells beforehand what a sweep would cost; `construct_checkpoint` writes one
constructed checkpoint. Imported on first use, so that `svdjax.engine.stop` is there before jax is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdjax.lazy import attributes

if TYPE_CHECKING:
    from svdjax.engine.behaviour.evaluate import EvaluateOutcome, run_evaluate
    from svdjax.engine.behaviour.evaluate_job import EvaluateJob
    from svdjax.engine.behaviour.probe import ProbeOutcome, run_probe
    from svdjax.engine.behaviour.probe_job import ProbeJob
    from svdjax.engine.descent.fingerprint import FingerprintOutcome, run_fingerprint
    from svdjax.engine.descent.fingerprint_job import FingerprintJob
    from svdjax.engine.editing.construct import (
        ConstructOutcome,
        construct_checkpoint,
        run_construct,
    )
    from svdjax.engine.editing.construct_job import ConstructJob
    from svdjax.engine.editing.initialise import run_initialise
    from svdjax.engine.editing.initialise_job import InitialiseJob
    from svdjax.engine.estimate import dry_run
    from svdjax.engine.outcome import SweepOutcome
    from svdjax.engine.pair import compare
    from svdjax.engine.results import FORMAT_VERSION, Comparison, ProjectionResult
    from svdjax.engine.run import run_sweep

__all__ = [
    "FORMAT_VERSION",
    "Comparison",
    "ConstructJob",
    "ConstructOutcome",
    "EvaluateJob",
    "EvaluateOutcome",
    "FingerprintJob",
    "FingerprintOutcome",
    "InitialiseJob",
    "ProbeJob",
    "ProbeOutcome",
    "ProjectionResult",
    "SweepOutcome",
    "compare",
    "construct_checkpoint",
    "dry_run",
    "run_construct",
    "run_evaluate",
    "run_fingerprint",
    "run_initialise",
    "run_probe",
    "run_sweep",
]

_HOMES = {
    "FORMAT_VERSION": "results",
    "Comparison": "results",
    "ConstructJob": "editing.construct_job",
    "ConstructOutcome": "editing.construct",
    "EvaluateJob": "behaviour.evaluate_job",
    "EvaluateOutcome": "behaviour.evaluate",
    "FingerprintJob": "descent.fingerprint_job",
    "FingerprintOutcome": "descent.fingerprint",
    "InitialiseJob": "editing.initialise_job",
    "ProbeJob": "behaviour.probe_job",
    "ProbeOutcome": "behaviour.probe",
    "ProjectionResult": "results",
    "SweepOutcome": "outcome",
    "compare": "pair",
    "construct_checkpoint": "editing.construct",
    "dry_run": "estimate",
    "run_construct": "editing.construct",
    "run_evaluate": "behaviour.evaluate",
    "run_fingerprint": "descent.fingerprint",
    "run_initialise": "editing.initialise",
    "run_probe": "behaviour.probe",
    "run_sweep": "run",
}

__getattr__ = attributes(__name__, _HOMES)
