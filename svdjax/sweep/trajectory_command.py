r"""Follows a training run: every step against the first and against the one before it.

    svdjax trajectory STEPS
    svdjax trajectory STEPS --base=DIR --every=5 --out=runs/steps

STEPS is a directory of directories whose names end in the number of a step (step-100,
checkpoint-200, 300): of Hugging Face, LoRA adapters as PEFT's trainers save them, or what Orbax's
CheckpointManager wrote. --base is what the run started from, where that is not among the steps;
adapters are merged into it. OUT/report.html shows scaling, NF and size of the change over the
steps, OUT/tables/trajectory.csv holds them, and each pair of steps (100-300) has a folder.

It is the sweep of the config `trajectory` (svdjax sweep --help): a command that was killed goes on
when it is given again, a finished one does nothing; a run that has grown wants another --out. Exit
status: 0 done, 2 the input cannot be used (one line on stderr says why), 3 workers are lost, 130 or
143 stopped on request, 1 a fault of svdjax.
"""

from __future__ import annotations

from absl import flags

from svdjax import cli
from svdjax.options import default_config
from svdjax.sweep.command import SweepFlags
from svdjax.sweep.trajectory import read_points, trajectory_pairs

_FLAGS = SweepFlags("Set by this command; --config.LEAF=VALUE sets its leaves.", place="out")
_BASE = flags.DEFINE_string("base", "", "What the run started from: a directory or a hub id.")
_EVERY = flags.DEFINE_integer(
    "every", 1, "Take the first step, every so many after it, and the last.", lower_bound=1
)


def main(steps: str) -> str:
    """Compares the steps of a run; returns the summary for stdout."""
    config = _FLAGS.config.value
    points = read_points(steps, _BASE.value, _EVERY.value)
    whole = default_config("trajectory", trajectory_pairs(points), trajectory=points)
    with config.unlocked():
        config.pairs, config.trajectory = whole.pairs, whole.trajectory
    return _FLAGS.run(config)


if __name__ == "__main__":
    cli.run(main, positional=("STEPS",), config="trajectory")
