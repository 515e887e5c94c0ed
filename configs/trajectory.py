r"""A training run: every step against the first and against the one before it.

    python -m svdjax.sweep --config=configs/trajectory.py:steps=DIR --workdir=runs/steps
    python -m svdjax.sweep --config=configs/trajectory.py:steps=DIR,base=org/model,every=5

DIR holds directories whose names end in the number of a step (step-100, checkpoint-200, 300): of
Hugging Face, LoRA adapters as PEFT's trainers save them, or what Orbax's CheckpointManager wrote.
`base` is what the run started from, where that is not among the steps; adapters are merged into
it. `every=N` takes the first step, every Nth after it, and the last. Orbax steps take their
config.json from DIR or the folder above.

N points make 2N - 3 pairs, named by their steps (100-300). The index shows SVSM, NF and the norm of
change over the steps, tables/trajectory.csv holds them. A run that has grown wants a new workdir.

Tried on a short run from the reference family's base, its steps kept (one and a half
minutes on two cores, and as much for the sweep):

    mkdir -p runs/family && cp -r svdjax/reference/base runs/family/
    python tools/train_reference.py --model=instruct --steps=120 --keep_steps=40 --graded=False \
        --out=runs/family --workdir=runs/training
    python -m svdjax.sweep --workdir=runs/steps \
        --config=configs/trajectory.py:steps=runs/training/instruct/checkpoints,base=runs/family/base

Of the unrelated level, NF is 2.1 to 8.4 % after 40 steps (lowest and highest projection) and 3.7 to
12.9 % after 120, with 0.7 to 2.2 % between the last two.
"""

from svdjax.errors import InputError
from svdjax.options import default_config, parse_argument
from svdjax.sweep.trajectory import read_points, trajectory_pairs


def get_config(argument=None):
    """The pairs of the steps that `steps` holds; none without an argument."""
    given = parse_argument(argument, known=("steps", "base", "every"))
    if not given:
        return default_config("trajectory", {})
    if "steps" not in given:
        raise InputError("steps is not given; write steps=DIRECTORY after the config's colon")
    every = given.get("every", "1")
    if not every.isdecimal() or int(every) < 1:
        raise InputError(f"config argument every={every}: expected a whole number above 0")
    points = read_points(given["steps"], given.get("base", ""), int(every))
    return default_config("trajectory", trajectory_pairs(points), trajectory=points)
