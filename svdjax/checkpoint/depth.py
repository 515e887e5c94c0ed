"""Layers of a model matched to those of another one, of another depth.

Axes: `L` layers of base, `M` layers of post.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.projection import Place
from svdjax.checkpoint.reader import Checkpoint

_VALUES = 1 << 16  # of a matrix, from its first rows
_MATRICES = 8  # of a layer
_LEAST = 1e-12  # below that, one pair of layers is no nearer than another
# ||A - B||^2 / (||A||^2 + ||B||^2) is about 1 of layers that have nothing to do with each other.
_UNLIKE = 0.8


def assign_layers(costs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of layers with the least costs, in the order of the second model.

    One-to-one by `scipy.optimize.linear_sum_assignment`, which leaves layers of a deeper first
    model out. The further layers of a deeper second one (copies, where a model was made deeper by
    repeating layers) go with the nearest of the first.

    Args:
        costs: [L, M].

    Returns:
        Pairs (layer of the first, layer of the second), min(L, M) of them or M if that is more.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs)
    pairs = dict(zip(columns.tolist(), rows.tolist()))
    if costs.shape[1] > costs.shape[0]:
        for column in range(costs.shape[1]):
            pairs.setdefault(column, int(costs[:, column].argmin()))
    return [(row, column) for column, row in sorted(pairs.items())]


def match_layers(
    base: Checkpoint,
    post: Checkpoint,
    layers: tuple[Sequence[int], Sequence[int]],
    where: Mapping[str, Place],
    stack: str,
) -> dict[int, int]:
    """Layer of base for each layer of post that is like one, by values of a few matrices of each.

    The cost of a pair of layers is as that of the fingerprint: the logarithm of how far apart they
    are, mean over the matrices, so that a few that agree outweigh any number that do not. Of each
    matrix the first rows are read, `_VALUES` numbers at most.

    Args:
        base: The one model.
        post: The other, with the same names.
        layers: Numbers of the layers of base and of post.
        where: Place of every tensor.
        stack: Beginning of the templates of the layers.
    """
    sides = (base, post)
    by_template: list[dict[str, dict[int, str]]] = [{}, {}]
    for templates, checkpoint in zip(by_template, sides):
        for name in checkpoint.names:
            place = where[name]
            if place.template.startswith(stack) and not place.expert and place.layer is not None:
                spec = checkpoint.spec(name)
                if len(spec.shape) == 2 and spec.dtype in FLOATS and 0 not in spec.shape:
                    templates.setdefault(place.template, {})[place.layer] = name
    common = by_template[0].keys() & by_template[1].keys()
    widest = sorted(common, key=lambda name: (-len(by_template[0][name]), name))[:_MATRICES]
    costs = [
        _distances(
            *(
                _leading_values(checkpoint, (templates[template].get(n) for n in numbers))
                for checkpoint, templates, numbers in zip(sides, by_template, layers)
            )
        )
        for template in widest
    ]
    if not costs:
        return {}
    stacked = np.stack(costs)
    usable = np.isfinite(stacked)
    totals = np.where(usable, stacked, 0.0).sum(0) / np.maximum(usable.sum(0), 1)
    pairs = assign_layers(totals)
    alike = [(i, j) for i, j in pairs if totals[i, j] < np.log(_UNLIKE)]
    # Of models that share nothing every pair of layers is as good as any other.
    return {layers[1][j]: layers[0][i] for i, j in alike or pairs}


def _leading_values(checkpoint: Checkpoint, names: Iterable[str | None]) -> list[np.ndarray | None]:
    """The first rows of a matrix of each layer, flat; None where a layer has none."""
    values: list[np.ndarray | None] = []
    for name in names:
        if name is None:
            values.append(None)
            continue
        rows = max(1, _VALUES // checkpoint.spec(name).shape[1])
        flat = checkpoint.read(name, (0, rows)).reshape(-1)[:_VALUES]
        with np.errstate(over="ignore", invalid="ignore"):
            values.append(np.nan_to_num(flat.astype(np.float32)))
    return values


def _distances(base: Sequence[np.ndarray | None], post: Sequence[np.ndarray | None]) -> np.ndarray:
    """Log of ||A - B||^2 / (||A||^2 + ||B||^2) of pairs of layers, [L, M]; NaN where unlike."""
    costs = np.full((len(base), len(post)), np.nan)
    for i, a in enumerate(base):
        for j, b in enumerate(post):
            if a is None or b is None or a.shape != b.shape:
                continue
            size = float(np.vdot(a, a)) + float(np.vdot(b, b))
            difference = a - b
            apart = float(np.vdot(difference, difference))
            costs[i, j] = np.log(apart / size + _LEAST) if 0 < size < np.inf else 0.0
    return costs
