"""Do two models share an origin? A verdict from the weights alone.

    python -m svdjax.fingerprint --reference=DIR --suspect=DIR --out=verdict.json
    python -m svdjax.fingerprint --reference=DIR,DIR,DIR --suspect=DIR --out=verdict.json
    python -m svdjax.fingerprint --reference=DIR --ancestor=DIR --suspect=DIR --out=verdict.json

The suspect may be disguised: neurons, heads, groups of heads and layers in another order, scales
moved between v and o, up and down, q and k, a norm and what follows it, another basis of the
residual stream, rounding and noise. What can be undone without changing the function is undone
first, found from the weights; then NF and the agreement of the polar factors, tr(I_orth), are
measured in every linear layer, and in embeddings and heads over common tokens. Layers may have
been left out, repeated or moved, and tokens added or removed; models of another width cannot be
compared.

The verdict rests on the size of that agreement; the p-value guards against chance:
  related         they share an origin: one comes from the other, or both from a third
  partly related  only the parts (layers, modules, embeddings, head) that are named do
  undecided       more in common than models trained apart have, less than related ones
  unrelated       no more in common was found than models trained apart have
Which of two came first, two checkpoints do not tell. Of several references the nearest is named
where the numbers allow it; with --ancestor, a checkpoint that is known to be older than the two,
also which of the three lies between the others.

FILE is JSON: "verdict", "direction" ("unknown"), "distance" (0 same, about 1 unrelated), "p_value"
("log10_p_value" does not underflow), "related_parts", "parts", "alignment" (what was undone),
"projections" (per layer and pooled), "shared_training" (whether the two share more than initial
weights), "assumption" (what the p-value presumes); with more than two checkpoints "references",
"nearest" and "ancestor". A page with the same lies beside it, FILE's name with .html. A FILE that
is there is replaced. Exit status: 0 whatever the verdict, 2 two cannot be compared (one line on
stderr says why), 130 or 143 stopped on request, 1 a fault of svdjax.
"""

from __future__ import annotations

from absl import flags

from svdjax import door
from svdjax.engine.descent.fingerprint_job import FingerprintJob
from svdjax.engine.process import prepare_process
from svdjax.engine.stop import StopRequest

_REFERENCE = flags.DEFINE_string(
    "reference",
    None,
    "The model that may have an origin in common with the suspect: directory or hub id "
    "org/name[@revision]; or several, separated by commas: the nearest is named.",
)
_SUSPECT = flags.DEFINE_string(
    "suspect", None, "The model that is asked about: directory or hub id org/name[@revision]."
)
_ANCESTOR = flags.DEFINE_string(
    "ancestor",
    FingerprintJob.ancestor,
    "A third checkpoint, known to be older than reference and suspect: which of the three lies "
    "between the others.",
)
_OUT = flags.DEFINE_string("out", None, "File for the verdict, such as verdict.json.")
_DERIVED = flags.DEFINE_float(
    "derived", FingerprintJob.derived, "Largest distance at which the verdict is related."
)
_UNRELATED = flags.DEFINE_float(
    "unrelated",
    FingerprintJob.unrelated,
    "Smallest distance at which it is unrelated; between the two it is undecided.",
)
_P_VALUE = flags.DEFINE_float(
    "p_value", FingerprintJob.p_value, "Largest p-value with which the verdict may be related."
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
            ancestor=_ANCESTOR.value,
        )
        prepare_process()
        # jax is loaded from here on, after all that flags alone can be wrong about.
        from svdjax import report
        from svdjax.engine import run_fingerprint

        return run_fingerprint(job, report, stop=stop).text()


if __name__ == "__main__":
    flags.mark_flags_as_required(["reference", "suspect", "out"])
    door.run(main)
