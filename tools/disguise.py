"""Writes a checkpoint that computes the same as another one with weights that look different.

    python tools/disguise.py --model=DIR --disguise=neurons,rotation --out=DIR
    python tools/disguise.py --model=DIR --disguise=all,bf16 --out=DIR --seed=3

neurons: their order; experts: theirs, with the router; heads: query heads within their groups;
groups: kv heads with their query heads; vo: scales between v and o; values: any invertible basis
of a value head; planes: phases and scales of rotary planes between q and k; updown: scales and
signs between up and down; norms: scales between a norm and what follows it; rotation: another basis
of the residual stream (norms folded in, head untied); all: all of these that the architecture
allows. noise (added first) and bf16 (rounded to last) change the function a little. The tool
compares the logits of both checkpoints as they lie on disk and fails, leaving nothing behind, if a
disguise that should not have changed them did.
"""

from __future__ import annotations

import pathlib
import shutil

from absl import flags

from svdjax import cli
from svdjax.errors import InputError

_MODEL = flags.DEFINE_string("model", None, "Checkpoint to disguise: directory or hub id.")
_OUT = flags.DEFINE_string("out", None, "Directory for the disguised one; must not exist.")
_DISGUISE = flags.DEFINE_list("disguise", None, "Some of the names above, separated by commas.")
_SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", 0)
_NOISE = flags.DEFINE_float(
    "noise", 0.01, "Deviation of noise, relative to the root mean square of each tensor.", 0.0
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance",
    1e-4,
    # float32 logits of float32 weights: rounding alone gave up to 6e-6 in all families.
    "Largest difference of the logits, relative to the largest of them, that counts as equal.",
    0.0,
)


def main() -> str:
    """Writes the disguised checkpoint and proves it; returns what it did."""
    for flag in (_MODEL, _OUT, _DISGUISE):
        if not flag.value:
            raise InputError(f"--{flag.name} is not given")
    return make(
        _MODEL.value or "",
        pathlib.Path(_OUT.value or ""),
        tuple(_DISGUISE.value or ()),
        seed=_SEED.value,
        noise=_NOISE.value,
        tolerance=_TOLERANCE.value,
    )


def make(
    model: str,
    out: pathlib.Path,
    names: tuple[str, ...],
    *,
    seed: int = 0,
    noise: float = 0.01,
    tolerance: float = 1e-4,
) -> str:
    """Disguises a checkpoint; returns what it did.

    Raises:
        InputError: A name is unknown, the checkpoint cannot be read or written, or the logits of
            an exact disguise differ.
    """
    import numpy as np
    from disguises import ROUGH, disguise

    from svdjax.checkpoint import load_params, model_config, open_checkpoint, save_checkpoint

    with open_checkpoint(model) as checkpoint:
        config = model_config(checkpoint.path)
        params = load_params(checkpoint, config)
        tree, changed = disguise(params, config, names, seed=seed, noise=noise)
        raw = {**checkpoint.config, "tie_word_embeddings": changed.tie_word_embeddings}
        dtype = "bfloat16" if "bf16" in names else "float32"
        save_checkpoint(out, tree, raw, dtype=dtype, copy_from=checkpoint.path)
    with open_checkpoint(out) as written:
        difference = _difference(params, config, load_params(written, changed), changed)
    exact = not set(names) & set(ROUGH)
    if exact and not difference <= tolerance:
        shutil.rmtree(out)
        raise InputError(
            f"{out}: logits differ by {difference:.1e} of the largest, expected at most "
            f"{tolerance:.1e}; nothing is left there"
        )
    said = "equal" if exact else "near"
    return (
        f"{out}: {', '.join(names)}; logits {said}, largest difference {difference:.1e} of the "
        f"largest of {np.dtype(np.float32)} logits on {_TOKENS} tokens"
    )


_TOKENS = 96


def _difference(params, config, tree, changed) -> float:
    import numpy as np

    from svdjax.model import forward

    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, _TOKENS // 2))
    before = np.asarray(forward(params, config, tokens.astype(np.int32)))
    after = np.asarray(forward(tree, changed, tokens.astype(np.int32)))
    return float(np.abs(before - after).max() / np.abs(before).max())


if __name__ == "__main__":
    cli.run(main)
