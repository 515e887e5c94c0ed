"""Attention entropy, attention maps and CKA of models that read prompts.

Every model reads the same prompts, with its own chat template and the paper's system prompt (arXiv
2509.17866). CKA compares every model with the first.

    svdjax probe --models=post/,replaced/,restored/ --prompts=gsm8k/train.jsonl --out=DIR
    svdjax probe --models=a/,b/ --prompts=lines.txt --prompt_format=plain --out=DIR

OUT/entropy.npz holds "<model>/last" and "<model>/mean" [blocks, heads]: the entropy (nats) of the
attention of the last position, mean over the prompts, and of all positions. OUT/cka.npz holds
"<model>" [blocks of the first model, blocks]: linear CKA of the hidden states after the blocks, and
each kind of it by name: "<model>/prompt" (a sample is a prompt, its tokens averaged: our choice and
the default), "<model>/position" (a sample is a position, the prompts averaged: eq. 17), both also
"_debiased". OUT/maps.npz holds the first prompt's attention [blocks, tokens, tokens], averaged over
the heads; OUT/figures what the paper draws. With --linearised OUT/linearised.npz holds
"<model>/change", "<model>/error" and so on: how much of the change of the logits from the first
model is first order in that of the weights (docs/probe.md). <model> is the directory's name, with
-2, -3 where names repeat. A finished probe given again does nothing. Exit status: 0 done, 2 the
input cannot be used (one line on stderr says why), 130 or 143 stopped on request, 1 a fault of
svdjax.
"""

from __future__ import annotations

from absl import flags

from svdjax import cli
from svdjax.engine.process import open_jax, prepare_process
from svdjax.engine.signals import StopRequest
from svdjax.fields import Flags
from svdjax.probe.job import ProbeJob

_FLAGS = Flags(ProbeJob)
_DRY_RUN = cli.define_common()


def main() -> str:
    """Probes the models of the flags; returns the summary for stdout."""
    with StopRequest(resumes=False) as stop:
        job = ProbeJob(**_FLAGS.values(ProbeJob))
        prepare_process()
        # jax is loaded from here on, after all that flags alone can be wrong about.
        open_jax()
        from svdjax.probe.run import dry_run_probe, run_probe

        if _DRY_RUN.value:
            return dry_run_probe(job)
        return run_probe(job, draw=True, stop=stop).text()


if __name__ == "__main__":
    flags.mark_flags_as_required(["models", "prompts", "out"])
    cli.run(main, instead="models are given by --models=DIR,DIR, what they read by --prompts=FILE")
