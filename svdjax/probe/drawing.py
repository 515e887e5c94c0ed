"""Draws what a probe found: files in a folder, for all models together and for each."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from svdjax.probe import figures
from svdjax.report import page, style
from svdjax.report.files import write

# Maps of more blocks than this are too small to see.
_MOST_MAPS = 9


def write_probes(
    directory: pathlib.Path,
    *,
    first: str,
    blocks: Callable[[int], Sequence[int]] | None,
    entropy: Mapping[str, np.ndarray],
    cka: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    words: str = "CKA",
) -> list[pathlib.Path]:
    """Writes entropy_last.png, entropy_mean.png, entropy_heads.png, cka.png, attention_<model>.png.

    And attention_difference_<model>.png: its maps minus those of `first`, where shapes are equal.

    Args:
      directory: where to; made if it does not exist.
      first: the model that the others are held against.
      blocks: the blocks to draw of so many, None for all.
      entropy: "<model>/last" and "<model>/mean" to [blocks, heads], nats.
      cka: model to [blocks of first, blocks].
      maps: model to attention [blocks, T, T], mean over the heads; some of the blocks are drawn.
      words: what the CKA is called.

    Returns:
      The files.
    """
    written = []
    with style.drawing():
        for name, figure in _figures(first, blocks, entropy, cka, maps, words):
            written.append(write(directory / f"{name}.png", style.png(figure)))
    return written


def _figures(
    first: str,
    blocks: Callable[[int], Sequence[int]] | None,
    entropy: Mapping[str, np.ndarray],
    cka: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    words: str,
) -> Iterator[tuple[str, Figure]]:
    titles = {"last": "the last position", "mean": "all positions"}
    for kind, words in titles.items():
        values = {
            key.removesuffix(f"/{kind}"): value
            for key, value in entropy.items()
            if key.endswith(f"/{kind}")
        }
        numbers = None
        # One selection serves all models only where they are equally deep.
        if blocks is not None and len({len(value) for value in values.values()}) == 1:
            numbers = list(blocks(len(values[first])))
            values = {name: value[numbers] for name, value in values.items()}
        title = f"Attention entropy of {words}"
        yield (
            f"entropy_{kind}",
            figures.entropy_curves(values, title=title, blocks=numbers, first=first),
        )
        if kind == "last":
            yield "entropy_heads", figures.entropy_heatmaps(values, blocks=numbers)
    yield "cka", figures.cka_heatmaps(cka, first=first, words=words)
    used: set[str] = set()
    for name, stack in maps.items():
        shown = np.unique(np.linspace(0, len(stack) - 1, min(_MOST_MAPS, len(stack))).astype(int))
        file = f"attention_{page.slug(name)}"
        while file in used:
            file += "_"
        used.add(file)
        titles = {block: f"{name}, block {block}" for block in shown.tolist()}
        drawn = {title: stack[block] for block, title in titles.items()}
        yield file, figures.attention_maps(drawn)
        if name != first and first in maps and stack.shape == maps[first].shape:
            changes = {title: stack[b] - maps[first][b] for b, title in titles.items()}
            stem = "attention_difference" + file.removeprefix("attention")
            while stem in used:
                stem += "_"
            used.add(stem)
            yield stem, figures.attention_differences(changes)
