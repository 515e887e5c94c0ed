r"""Compares checkpoints pair by pair: the main job, one command, resumable.

For every pair of a config, every linear layer of the base is compared with the same layer of the
post-trained model: singular value scaling (SVSM, alpha), similarity of the singular vectors, NF
beside the level of unrelated matrices, fits of eq. 8. The workdir then holds, for each pair,
spectra.npz, summary.json, tables, figures and a self-contained report.html, with an index. More
stages make the paper's constructed models, look inside every model, and put benchmarks to them.

    The reference family that ships with svdjax, no network needed:
      svdjax sweep --config=reference:quick
      svdjax sweep --config=reference

    Any two checkpoints, directories or hub ids (org/name[@revision]); `svdjax compare` is shorter:
      svdjax sweep --config=pair:base=DIR,post=DIR --workdir=runs/mine

    What would it cost? Shapes, memory, time; nothing is written:
      svdjax sweep --config=qwen2_5_math_7b --dry_run

    Leaves of the config set by hand (they are explained below):
      svdjax sweep --config=reference --config.factorisation=svd_f32 \
          --config.stages=spectra,nulls,report

A config is named, if it ships with svdjax, or a file: `python -m svdjax.sweep
--config=configs/reference.py:quick` in a checkout is the first command above.

A sweep that was killed goes on when the same command is given again, and a finished one does
nothing. SIGTERM and Ctrl-C end it after the group of layers in flight. A workdir that another
config or other input files made is refused. Exit status: 0 done, 2 the input cannot be used (one
line on stderr says why), 3 workers are lost, or some of what they were to do is, 130 or 143 stopped
on request, 1 a fault of svdjax.

One process uses all GPUs of its machine. More machines are workers of a Ray cluster:
      pip install "svdjax[ray]"
      RAY_ADDRESS=HOST:PORT svdjax sweep --config=... --workers=ray
Without RAY_ADDRESS a cluster of this machine alone is started. Workers read the checkpoints
themselves, under the same paths or hub ids; this process alone writes to the workdir.
"""

from __future__ import annotations

from absl import flags

from svdjax import cli
from svdjax.sweep.command import SweepFlags

_FLAGS = SweepFlags(
    "Config, with its argument after a colon: the name of one that ships, as "
    "pair:base=D,post=D, or the path of a file."
)


def main() -> str:
    """Runs the sweep that the flags ask for; returns the summary for stdout."""
    return _FLAGS.run(_FLAGS.config.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(
        main,
        instead="a sweep is given by --config=NAME; two checkpoints are compared by "
        "svdjax compare BASE POST",
    )
