"""Results in the forms that notebooks know: tables, data frames, labelled arrays, a page."""

from __future__ import annotations

import importlib
import pathlib
import tempfile
import webbrowser
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.errors import InputError
from svdjax.spectra.tables import layers_table
from svdjax.spectral import PairMetrics

if TYPE_CHECKING:
    import pandas
    import xarray

    from svdjax.spectra.results import Comparison

_CORNERS = ("sim_u", "sim_v", "i_orth")


def overview(comparison: Comparison) -> list[tuple[str, ...]]:
    """Cells of a comparison's table of projections, the head first."""
    of_experts = any(result.expert_numbers for result in comparison.projections.values())
    sizes = ("projection", "in", "out", "layers", *(["experts"] if of_experts else []))
    rows: list[tuple[str, ...]] = [
        (*sizes, "alpha", "std", "NF", "unrelated", "ratio", "co-rotation", "p")
    ]
    for result in comparison.projections.values():
        counts = (*result.shape, result.layers, *([result.experts] if of_experts else []))
        numbers = (
            *map(str, counts),
            *(f"{alpha:.4f}" for alpha in (result.alpha_mean, result.alpha_std)),
            *(f"{nf:.4g}" for nf in (result.nf_mean, result.nf_unrelated)),
            f"{result.nf_mean / result.nf_unrelated:.3f}",
            f"{result.corotation_pooled.share:.3f}",
            f"{comparison.corotation_p[result.name]:.2g}",
        )
        rows.append((result.name, *numbers))
    return rows


def to_dataframe(comparisons: Iterable[Comparison]) -> pandas.DataFrame:
    """A row for each matrix: pair, projection, layer, and what tables/layers.csv has of it.

    Where there are experts, ``expert`` is their number, missing for other matrices.

    Raises:
        InputError: pandas is not installed.
    """
    frames = _needed("pandas", "to_dataframe")
    rows = [
        {"pair": comparison.pair, **row}
        for comparison in comparisons
        for row in layers_table(comparison).rows
    ]
    frame = frames.DataFrame(rows)
    if "expert" in frame:
        frame["expert"] = frames.to_numeric(frame["expert"]).astype("Int64")
    return frame


def to_xarray(comparisons: Iterable[Comparison]) -> xarray.Dataset:
    """Every array, with dimensions pair, projection, layer and direction, or row and column.

    What a pair, projection or layer lacks is NaN, and so are directions beyond its rank. Where
    there are experts there is a dimension ``expert`` after that of layers, with their numbers; what
    has none is at expert -1. Coordinates of ``layer`` are the layers' numbers in the model where
    these are not 0, 1, ... for all.

    Raises:
        InputError: xarray is not installed.
    """
    arrays = _needed("xarray", "to_xarray")
    by_pair = {comparison.pair: comparison.projections for comparison in comparisons}
    names = list(dict.fromkeys(name for results in by_pair.values() for name in results))
    every = [result for results in by_pair.values() for result in results.values()]
    layers = sorted({number for result in every for number in result.layer_numbers})
    experts = sorted({number for result in every for number in result.expert_numbers or (-1,)})
    outer = ["pair", "projection", "layer", *(["expert"] if experts != [-1] else [])]
    coords: dict[str, Any] = {"pair": list(by_pair), "projection": names}
    if len(outer) > 3:
        coords |= {"layer": layers, "expert": experts}
    elif layers != list(range(len(layers))):
        coords["layer"] = layers
    variables: dict[str, Any] = {}
    for field in PairMetrics._fields:
        parts = {
            (i, names.index(name)): (result, np.asarray(getattr(result.flat.metrics, field)))
            for i, results in enumerate(by_pair.values())
            for name, result in results.items()
        }
        sizes = np.max([part.shape[1:] for _, part in parts.values()], axis=0).astype(int)
        whole = np.full((len(by_pair), len(names), len(layers), len(experts), *sizes), np.nan)
        for place, (result, part) in parts.items():
            split = part.reshape(result.layers, result.experts, *part.shape[1:])
            at = np.ix_(
                np.searchsorted(layers, result.layer_numbers),
                np.searchsorted(experts, result.expert_numbers or (-1,)),
            )
            whole[place][(*at, *(slice(size) for size in part.shape[1:]))] = split
        whole = whole if len(outer) > 3 else whole[:, :, :, 0]
        inner = ("row", "column") if field in _CORNERS else ("direction",)
        variables[field] = ((*outer, *inner[: whole.ndim - len(outer)]), whole)
    return arrays.Dataset(variables, coords=coords)


def show(comparison: Comparison) -> pathlib.Path:
    """Opens a pair's page in a browser: the one in its directory, else one made for it."""
    page = comparison.folder / "report.html" if comparison.folder else None
    if page is None or not page.is_file():
        from svdjax.sweep import pages  # above this package, and loaded where it is asked for

        folder = tempfile.mkdtemp(prefix="svdjax-")
        page = pages.write_report(folder, {comparison.pair: comparison})
    return open_page(page)


def open_page(page: pathlib.Path) -> pathlib.Path:
    """Opens a page in a browser; returns its path."""
    webbrowser.open(page.resolve().as_uri())
    return page


def _needed(library: str, method: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise InputError(f"{method} needs {library} ({error}): pip install {library}") from error
