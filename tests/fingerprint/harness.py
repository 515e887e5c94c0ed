"""What the fingerprint's tests share: disguised checkpoints, raw NF, plain numpy statistics."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np

from svdjax.checkpoint import load_params, model_config, open_checkpoint, save_checkpoint
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.layer import Layer
from svdjax.fingerprint.run import fingerprint
from svdjax.spectral import nf_unrelated
from tools.disguises import disguise

# Raw NF / NF_unrelated (about 1 is unrelated) that counts as defeated. Undisguised descendants have
# at most 0.21 here; orders, signs, bases and rotations bring them to 1, scales alone, which turn no
# singular vector by themselves, to 0.47 and more.
DEFEATED = 0.45


def disguised(
    source: pathlib.Path, target: pathlib.Path, *names: str, seed: int = 5
) -> pathlib.Path:
    """A disguised copy in float32."""
    with open_checkpoint(source) as checkpoint:
        config = model_config(checkpoint.path)
        tree, changed = disguise(load_params(checkpoint, config), config, names, seed=seed)
        raw = {**checkpoint.config, "tie_word_embeddings": changed.tie_word_embeddings}
        return save_checkpoint(target, tree, raw, dtype="float32", copy_from=checkpoint.path)


def verdict(reference: pathlib.Path, suspect: pathlib.Path) -> dict[str, Any]:
    """The content of the file, with nothing written."""
    return fingerprint(FingerprintJob(str(reference), str(suspect), "unused.json"))


def raw_nf(reference: pathlib.Path, suspect: pathlib.Path, names: tuple[str, ...]) -> list[float]:
    """NF / NF_unrelated of projections, mean over the layers, without any alignment."""
    sides = [kernels(reference), kernels(suspect)]
    ratios = []
    for name in names:
        nf = [svd_trace(a, b)[1] for a, b in zip(*(side[name] for side in sides))]
        ratios.append(float(np.mean(nf) / nf_unrelated(*sides[0][name].shape[1:])))
    return ratios


@functools.lru_cache
def kernels(source: pathlib.Path) -> dict[str, np.ndarray]:
    """Linear layers [L, in, out] by projection, float64."""
    with open_checkpoint(source) as checkpoint:
        layers = load_params(checkpoint, model_config(checkpoint.path))["layers"]
    return {
        name: leaves["kernel"].astype(np.float64)
        for module in ("self_attn", "mlp")
        for name, leaves in layers[module].items()
    }


def rewritten(source: pathlib.Path, target: pathlib.Path, change: Any) -> pathlib.Path:
    """A copy whose tree and config.json went through `change`."""
    with open_checkpoint(source) as checkpoint:
        tree = load_params(checkpoint, model_config(checkpoint.path))
        raw = dict(checkpoint.config)
    change(tree, raw)
    return save_checkpoint(target, tree, raw, dtype="float32")


def reorder_layers(tree: Any, order: list[int]) -> None:
    """Layers in another order, left out or repeated, in place."""

    def taken(branch: Any) -> Any:
        if isinstance(branch, dict):
            return {name: taken(leaf) for name, leaf in branch.items()}
        return branch[order]

    tree["layers"] = taken(tree["layers"])


def random_layer(rng: np.random.Generator, *, planes: int = 2) -> Layer:
    """A block of independent Gaussian weights: D 24, F 40, two kv heads of two heads of 4."""
    D, F, K, G, H = 24, 40, 2, 2, 4
    shapes = {
        "q": (D, K, G, H),
        "k": (D, K, H),
        "v": (D, K, H),
        "o": (K, G, H, D),
        "gate": (D, F),
        "up": (D, F),
        "down": (F, D),
    }
    return Layer(
        **{name: rng.standard_normal(shape) for name, shape in shapes.items()}, planes=planes
    )


def svd_trace(w: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """tr(I_orth) and NF by their definitions, from singular vectors in float64."""
    u, _, vt = np.linalg.svd(w, full_matrices=False)
    u2, _, vt2 = np.linalg.svd(other, full_matrices=False)
    i_orth = (u.T @ u2).T @ (vt @ vt2.T)
    r = len(i_orth)
    return float(np.trace(i_orth)), float(np.linalg.norm(i_orth - np.eye(r)) / r)
