"""Verdict on whether two models share an origin, from the weights alone.

    svdjax fingerprint --reference=DIR --suspect=DIR --out=verdict.json
    svdjax fingerprint --reference=DIR,DIR,DIR --suspect=DIR --out=verdict.json
    svdjax fingerprint --reference=DIR --ancestor=DIR --suspect=DIR --out=verdict.json

Several pairs can be compared at once, by workers of a Ray cluster (RAY_ADDRESS, else one of this
machine alone is started), which read the checkpoints under the same paths or hub ids:

    svdjax fingerprint --reference=DIR,DIR --suspect=DIR --out=verdict.json --workers=ray

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
stderr says why), 3 workers are lost, 130 or 143 stopped on request, 1 a fault of svdjax.
"""

from __future__ import annotations

from absl import flags

from svdjax import cli
from svdjax.engine.process import open_jax, prepare_process
from svdjax.engine.signals import StopRequest
from svdjax.fields import Flags
from svdjax.fingerprint.job import FingerprintJob

_FLAGS = Flags(FingerprintJob)
_DRY_RUN = cli.define_common()
_WORKERS = cli.define_workers("--devices")


def main() -> str:
    """Compares the checkpoints of the flags; returns the summary for stdout."""
    with StopRequest(resumes=False) as stop:
        job = FingerprintJob(**_FLAGS.values(FingerprintJob))
        prepare_process()
        # jax is loaded from here on, after all that flags alone can be wrong about.
        # Where others compute, this process needs no device.
        open_jax(devices=_WORKERS.value == "here")
        from svdjax.fingerprint.run import dry_run_fingerprint, run_fingerprint

        if _DRY_RUN.value:
            return dry_run_fingerprint(job)
        return run_fingerprint(job, page=True, stop=stop, workers=_WORKERS.value).text()


if __name__ == "__main__":
    flags.mark_flags_as_required(["reference", "suspect", "out"])
    cli.run(main, instead="checkpoints are given by --reference=DIR --suspect=DIR")
