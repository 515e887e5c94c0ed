r"""Compares two checkpoints: what post-training did to singular values and vectors, in one report.

    svdjax compare BASE POST
    svdjax compare BASE POST --out=runs/mine --nulls
    svdjax compare Qwen/Qwen2.5-Math-1.5B Qwen/Qwen2.5-Math-1.5B-Instruct --stream

BASE is what POST was trained from; both are Hugging Face directories with safetensors, or hub ids
org/name[@revision]. POST may be a directory with a LoRA adapter, which is merged into BASE as it is
read. OUT then holds report.html, and in OUT/pair the arrays (spectra.npz), summary.json, tables and
a report of the pair. --nulls adds what a random change of the same size would show; --stream reads
hub ids without downloading them.

It is the sweep of the config `pair` (svdjax sweep --help): a command that was killed goes on when
it is given again, a finished one does nothing. Exit status: 0 done, 2 the input cannot be used (one
line on stderr says why), 3 workers are lost, 130 or 143 stopped on request, 1 a fault of svdjax.
"""

from __future__ import annotations

from absl import flags

from svdjax import cli
from svdjax.sweep.command import SweepFlags

_FLAGS = SweepFlags("Set by this command; --config.LEAF=VALUE sets its leaves.", place="out")
_NULLS = flags.DEFINE_bool(
    "nulls", False, "Also draw what random signs of the same change would show."
)


def main(base: str, post: str) -> str:
    """Compares two checkpoints; returns the summary for stdout."""
    config = _FLAGS.config.value
    config.base, config.post = base, post
    if _NULLS.value and "nulls" not in config.stages:
        config.stages = (*config.stages[:1], "nulls", *config.stages[1:])
    return _FLAGS.run(config)


if __name__ == "__main__":
    cli.run(main, positional=("BASE", "POST"), config="pair")
