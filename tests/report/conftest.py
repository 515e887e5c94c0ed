"""One small model compared once for all report tests."""

from __future__ import annotations

import pathlib

import pytest

from svdjax.spectra.results import Comparison
from svdjax.sweep.index_page import write_index
from svdjax.sweep.pair_page import write_pair
from tests.report import synthetic

PAPER = "Qwen2.5-Math-1.5B/instruct"


@pytest.fixture(scope="session")
def related() -> Comparison:
    return synthetic.family(pair="base-instruct")


@pytest.fixture(scope="session")
def workdir(related: Comparison, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A sweep's folder with two pairs and the index, as written by the report."""
    folder = tmp_path_factory.mktemp("sweep")
    few = {"k_proj": synthetic.SHAPES["k_proj"]}
    other = synthetic.family(alpha=0.0, change=1.0, seed=3, shapes=few, pair="base-other")
    write_pair(related, folder / related.pair, paper=PAPER)
    write_pair(other, folder / other.pair)
    write_index(folder, {related.pair: related, other.pair: other})
    return folder
