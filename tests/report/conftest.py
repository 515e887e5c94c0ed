"""One small model compared once for all report tests."""

from __future__ import annotations

import pathlib

import pytest

from svdjax.spectra.results import Comparison
from svdjax.sweep.pages import write_report
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
    pairs = {related.pair: related, other.pair: other}
    write_report(folder, pairs, papers={related.pair: PAPER}, figures="png")
    return folder
