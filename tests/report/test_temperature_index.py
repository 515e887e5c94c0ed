"""What the index says of scaled singular values."""

from __future__ import annotations

import numpy as np

from svdjax.sweep.pages import write_report
from svdjax.temperature.page import temperature_line
from svdjax.temperature.results import TemperatureResults
from tests.report import synthetic
from tests.report.pages import Page, assert_links_lead_somewhere


def results_of(**values: np.ndarray) -> TemperatureResults:
    """Two projections, one layer and all together, three factors."""
    return TemperatureResults(
        pair="one",
        models=["post", "base"],
        projections=["qk", "o_proj"],
        layers=[0, -1],
        factors=[0.5, 1.0, 1.5],
        data={"texts": 1, "tokens": 8, "prompts": 0, "questions": {}},
        settings={},
        values={f"post/{name}": value for name, value in values.items()},
    )


def test_a_line_for_every_pair(tmp_path):
    # The single layer would say the opposite: the line is of all layers.
    loss = np.array([[[1.0, 3.0, 3.0], [3.0, 2.0, 2.5]], [[3.0, 1.0, 3.0], [3.0, 2.0, 1.5]]])
    found = results_of(loss=loss, kl=0 * loss)
    assert temperature_line(found) == (
        "qk of post: with all layers scaled no factor lowers the loss; it is 2.0000 unscaled and "
        "at most 3.0000. o_proj of post: with all layers scaled the loss is least at factor 1.5 "
        "(1.5000); it is 2.0000 unscaled and at most 3.0000."
    )
    pairs = {"one": synthetic.comparison([], pair="one")}
    index = write_report(tmp_path, pairs, results={"temperature": {"one": found}})
    assert temperature_line(found) in Page(index).text
    assert_links_lead_somewhere(index)
    assert "Scaled singular values" not in Page(write_report(tmp_path, pairs)).text


def test_without_text_there_is_no_loss_to_tell_of():
    line = temperature_line(results_of(entropy_last=np.ones((2, 2, 3, 1))))
    assert line == "qk, o_proj of post and base were scaled; no loss was measured."
