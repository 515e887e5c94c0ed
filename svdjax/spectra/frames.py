"""Results in the forms that notebooks know: data frames, labelled arrays, a page."""

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


def to_dataframe(comparisons: Iterable[Comparison]) -> pandas.DataFrame:
    """A row for each matrix: pair, projection, layer, and what tables/layers.csv has of it.

    Raises:
        InputError: pandas is not installed.
    """
    frames = _needed("pandas", "to_dataframe")
    rows = [
        {"pair": comparison.pair, **row}
        for comparison in comparisons
        for row in layers_table(comparison).rows
    ]
    return frames.DataFrame(rows)


def to_xarray(comparisons: Iterable[Comparison]) -> xarray.Dataset:
    """Every array, with dimensions pair, projection, layer and direction, or row and column.

    What a pair, projection or layer lacks is NaN, and so are directions beyond its rank.

    Raises:
        InputError: xarray is not installed.
    """
    arrays = _needed("xarray", "to_xarray")
    by_pair = {comparison.pair: comparison.projections for comparison in comparisons}
    names = list(dict.fromkeys(name for results in by_pair.values() for name in results))
    variables: dict[str, Any] = {}
    for field in PairMetrics._fields:
        parts = {
            (i, names.index(name)): np.asarray(getattr(result.metrics, field))
            for i, results in enumerate(by_pair.values())
            for name, result in results.items()
        }
        sizes = np.max([part.shape for part in parts.values()], axis=0)
        whole = np.full((len(by_pair), len(names), *sizes), np.nan)
        for place, part in parts.items():
            whole[(*place, *(slice(size) for size in part.shape))] = part
        inner = ("row", "column") if field in _CORNERS else ("direction",)
        variables[field] = (("pair", "projection", "layer", *inner[: whole.ndim - 3]), whole)
    return arrays.Dataset(variables, coords={"pair": list(by_pair), "projection": names})


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
