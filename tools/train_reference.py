"""Trains the reference family that ships in svdjax/reference/.

    python tools/train_reference.py --model=all --out=svdjax/reference

An interrupted run goes on with the same command. The numbers of the shipped files, the time they
took and on what machine are in svdjax/reference/README.md.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time

from absl import flags, logging

from svdjax import cli
from svdjax.errors import InputError
from svdjax.reference import NAMES

_MODEL = flags.DEFINE_enum("model", "all", [*NAMES, "all"], "Which member of the family to train.")
_OUT = flags.DEFINE_string("out", None, "Folder that receives one directory per member.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/reference_family", "Folder of checkpoints and loss logs."
)
_SAVE_EVERY = flags.DEFINE_integer("save_every", 250, "Steps between checkpoints for resuming.", 1)
_KEEP_STEPS = flags.DEFINE_integer(
    "keep_steps", 0, "Keep the checkpoint of every multiple of this many steps (0: the last).", 0
)
_STEPS = flags.DEFINE_integer("steps", 0, "Train this many steps instead of the recipe's.", 0)
_ROWS = flags.DEFINE_integer("rows", 0, "Sequences per step instead of the recipe's.", 0)
_PEAK = flags.DEFINE_float("peak", 0.0, "Highest learning rate instead of the recipe's.", 0.0)
_LAYERS = flags.DEFINE_integer("layers", 5, "Blocks of the model.", 1)
_HIDDEN = flags.DEFINE_integer("hidden_size", 128, "Width of the model.", 8)
_INTERMEDIATE = flags.DEFINE_integer("intermediate_size", 336, "Width of the MLP.", 8)
_GRADED = flags.DEFINE_bool("graded", True, "Measure the accuracy on the held-out questions.")


def main() -> str:
    """Trains the members asked for, one after the other, and says what was reached."""
    if not _OUT.value:
        raise InputError("--out is missing; name the folder that receives the trained models")
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file.
    # jax comes with these: flag errors are to answer before.
    from reference.family import make
    from reference.recipes import RECIPES
    from reference.training import Keeping

    changes = {"steps": _STEPS.value, "rows": _ROWS.value, "peak": _PEAK.value}
    sizes = {
        "layers": _LAYERS.value,
        "hidden_size": _HIDDEN.value,
        "intermediate_size": _INTERMEDIATE.value,
    }
    lines = []
    for name in NAMES if _MODEL.value == "all" else (_MODEL.value,):
        begun = time.perf_counter()
        measured = make(
            dataclasses.replace(RECIPES[name], **{k: v for k, v in changes.items() if v}),
            pathlib.Path(_OUT.value),
            pathlib.Path(_WORKDIR.value),
            keeping=Keeping(_SAVE_EVERY.value, _KEEP_STEPS.value),
            sizes=sizes,
            graded=_GRADED.value,
        )
        accuracy = measured.get("accuracy", {}).get("all")
        right = "" if accuracy is None else f", {accuracy:.1f} % of held-out questions right"
        reached = (
            f"reward {measured['rewards'][-1]:.3f}"
            if name == "rl"
            else f"loss {measured['last_loss']:.4f}"
        )
        lines.append(
            f"{name}: {reached} (held-out loss {measured['heldout_loss']:.4f})"
            f"{right}, {time.perf_counter() - begun:.0f} s"
        )
    return "\n".join([*lines, f"written to {_OUT.value}"])


if __name__ == "__main__":
    cli.run(main)
