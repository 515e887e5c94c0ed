"""Figures of ``python -m svdjax.probe``, for all models together and for each."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from svdjax.probe import figures
from svdjax.probe.measure import Probes
from svdjax.report import page, style
from svdjax.report.files import write

# Maps of more blocks than this are too small to see.
_MOST_MAPS = 9


def draw_probes(
    directory: pathlib.Path,
    probes: Probes,
    models: Sequence[str],
    *,
    blocks: Callable[[int], Sequence[int]] | None,
    label: str,
) -> None:
    """Writes entropy_last.png, entropy_mean.png, entropy_heads.png, cka.png, attention_<model>.png.

    And attention_difference_<model>.png: its maps minus those of the first model, where shapes are
    equal. Of many blocks' maps, some are drawn.

    Args:
        directory: Folder of the files.
        probes: The models' arrays.
        models: Their names, the one that the others are compared with first.
        blocks: The blocks of a model of so many whose entropy is drawn; None draws all.
        label: Name of the CKA's kind.
    """
    with style.drawing():
        for name, figure in _figures(probes, models, blocks, label):
            write(directory / f"{name}.png", style.png(figure))


def _figures(
    probes: Probes,
    models: Sequence[str],
    blocks: Callable[[int], Sequence[int]] | None,
    label: str,
) -> Iterator[tuple[str, Figure]]:
    first = models[0]
    for kind, positions in (("last", "the last position"), ("mean", "all positions")):
        entropy = {name: probes.entropy[f"{name}/{kind}"] for name in models}
        drawn = None
        # One selection serves all models only where they are equally deep.
        if blocks is not None and len({len(values) for values in entropy.values()}) == 1:
            drawn = list(blocks(len(entropy[first])))
            entropy = {name: values[drawn] for name, values in entropy.items()}
        title = f"Attention entropy of {positions}"
        curves = figures.entropy_curves(entropy, title=title, blocks=drawn, first=first)
        yield f"entropy_{kind}", curves
        if kind == "last":
            yield "entropy_heads", figures.entropy_heatmaps(entropy, blocks=drawn)
    cka = {name: probes.cka[name] for name in models}
    yield "cka", figures.cka_heatmaps(cka, first=first, label=label)
    stems: set[str] = set()
    for name, stack in probes.maps.items():
        spaced = np.linspace(0, len(stack) - 1, min(_MOST_MAPS, len(stack))).astype(int)
        titles = {f"{name}, block {block}": block for block in np.unique(spaced).tolist()}
        stem = _unused(f"attention_{page.slug(name)}", stems)
        yield stem, figures.attention_maps({title: stack[b] for title, b in titles.items()})
        if name != first and first in probes.maps and stack.shape == probes.maps[first].shape:
            changes = {title: stack[b] - probes.maps[first][b] for title, b in titles.items()}
            stem = _unused("attention_difference" + stem.removeprefix("attention"), stems)
            yield stem, figures.attention_differences(changes)


def _unused(stem: str, stems: set[str]) -> str:
    """The stem, lengthened until no other file has it, and added to those that are used."""
    while stem in stems:
        stem += "_"
    stems.add(stem)
    return stem
