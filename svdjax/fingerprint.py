"""Does one model descend from another? A verdict from the weights alone.

    python -m svdjax.fingerprint --reference=DIR --suspect=DIR --out=verdict.json

The suspect may be disguised: neurons, heads and groups of heads in another order, scales moved
between v and o, up and down, q and k, a norm and what follows it, another basis of the residual
stream, rounding and noise. What can be undone without changing the function is undone first, found
from the weights; then NF and the agreement of the polar factors, tr(I_orth), are measured in every
linear layer. The verdict rests on the size of that agreement: derived, unrelated or undecided; the
p-value guards against chance. Layers may have been left out and tokens added or removed; models of
another width cannot be compared.

FILE is JSON: "verdict", "distance" (0 same, about 1 unrelated), "p_value", "alignment" (what was
undone), "projections" (per layer and pooled), "assumption" (what the p-value presumes). A page with
the same lies beside it, FILE's name with .html. A FILE that is there is replaced. Exit status: 0
whatever the verdict, 2 the two cannot be compared (one line on stderr says why), 130 or 143 stopped
on request, 1 a fault of svdjax.
"""

from __future__ import annotations

from absl import flags

from svdjax import door
from svdjax.engine.descent.fingerprint_job import FingerprintJob
from svdjax.engine.process import prepare_process
from svdjax.engine.stop import StopRequest

_REFERENCE = flags.DEFINE_string(
    "reference", None, "The model that may be the origin: directory or hub id org/name[@revision]."
)
_SUSPECT = flags.DEFINE_string("suspect", None, "The model that may descend from it: likewise.")
_OUT = flags.DEFINE_string("out", None, "File for the verdict, such as verdict.json.")
_DERIVED = flags.DEFINE_float(
    "derived", FingerprintJob.derived, "Largest distance at which the verdict is derived."
)
_UNRELATED = flags.DEFINE_float(
    "unrelated",
    FingerprintJob.unrelated,
    "Smallest distance at which it is unrelated; between the two it is undecided.",
)
_P_VALUE = flags.DEFINE_float(
    "p_value", FingerprintJob.p_value, "Largest p-value with which the verdict may be derived."
)
_DEVICES = flags.DEFINE_integer(
    "devices", FingerprintJob.devices, "Devices to factorise on; 0 takes all."
)


def main() -> str:
    """Compares what the flags name; returns the summary for stdout."""
    with StopRequest(resumes=False) as stop:
        job = FingerprintJob(
            reference=_REFERENCE.value or "",
            suspect=_SUSPECT.value or "",
            out=_OUT.value or "",
            derived=_DERIVED.value,
            unrelated=_UNRELATED.value,
            p_value=_P_VALUE.value,
            devices=_DEVICES.value,
        )
        prepare_process()
        # jax is loaded from here on, after all that flags alone can be wrong about.
        from svdjax import report
        from svdjax.engine import run_fingerprint

        return run_fingerprint(job, report, stop=stop).text()


if __name__ == "__main__":
    flags.mark_flags_as_required(["reference", "suspect", "out"])
    door.run(main)
