"""What an index says of a training run, against the equations in plain numpy."""

from __future__ import annotations

import csv
import json
import pathlib

import numpy as np
import pytest

from svdjax.spectra.results import Comparison
from svdjax.sweep.pages import write_report
from svdjax.sweep.trajectory import from_start, pair_name, step_to_step
from svdjax.sweep.trajectory_page import change, trajectory_table
from tests.report import synthetic
from tests.report.pages import Page, assert_links_lead_somewhere, assert_self_contained, meta_of

LABELS = ("base", "10", "20", "40")
FEW = {name: synthetic.SHAPES[name] for name in ("q_proj", "k_proj", "gate_proj")}


@pytest.fixture(scope="module")
def weights() -> dict[str, dict[str, np.ndarray]]:
    """Stacks [L, in, out] by projection and point; the second step changes nothing."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, (_, rows, columns) in FEW.items():
        points = [rng.standard_normal((3, rows, columns))]
        for factor, noise in ((1.1, 0.1), (1.0, 0.0), (0.8, 0.3)):
            moved = factor * points[-1] + noise * rng.standard_normal((3, rows, columns))
            points.append(moved)
        found[name] = dict(zip(LABELS, points))
    return found


@pytest.fixture(scope="module")
def comparisons(weights: dict[str, dict[str, np.ndarray]]) -> dict[str, Comparison]:
    found = {}
    for first, second in dict.fromkeys(from_start(LABELS) + step_to_step(LABELS)):
        results = [
            synthetic.result(name, FEW[name][0], one[first], one[second])
            for name, one in weights.items()
        ]
        name = pair_name(first, second)
        found[name] = synthetic.comparison(results, pair=name)
    return found


@pytest.fixture(scope="module")
def folder(
    comparisons: dict[str, Comparison], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("trajectory")
    write_report(folder, comparisons, trajectory=LABELS)
    return folder


def test_change_is_the_norm_of_the_difference(
    weights: dict[str, dict[str, np.ndarray]], comparisons: dict[str, Comparison]
) -> None:
    for first, second in from_start(LABELS) + step_to_step(LABELS):
        for name, one in weights.items():
            norms = np.linalg.norm(one[second] - one[first], axis=(1, 2))
            wanted = norms / np.linalg.norm(one[first], axis=(1, 2))
            found = change(comparisons[pair_name(first, second)][name])
            # In float64; where nothing changed alpha - 1 and the rest are rounding of norms of 1.
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-14)


def test_the_table_has_every_pair_and_projection(
    folder: pathlib.Path, comparisons: dict[str, Comparison]
) -> None:
    with (folder / "tables" / "trajectory.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 3 * 3
    (row,) = [
        row
        for row in rows
        if (row["against"], row["from"], row["to"], row["projection"])
        == ("previous", "20", "40", "k_proj")
    ]
    one = comparisons["20-40"]["k_proj"]
    assert (row["step_from"], row["step_to"], row["layers"]) == ("20", "40", "3")
    assert float(row["alpha_mean"]) == one.alpha_mean
    assert float(row["nf_over_unrelated"]) == one.nf_mean / one.nf_unrelated
    assert float(row["change_max"]) == change(one).max()
    record = json.loads((folder / "tables" / "trajectory.json").read_text())
    assert len(record["rows"]) == len(rows)
    table = trajectory_table(comparisons, LABELS)
    assert [row["to"] for row in table.rows[::3]] == ["10", "20", "40"] * 2
    assert {row["step_from"] for row in table.rows if row["against"] == "start"} == {0}


def test_the_page_tells_of_the_run(
    folder: pathlib.Path, comparisons: dict[str, Comparison]
) -> None:
    page: Page = assert_self_contained(folder / "report.html")
    assert_links_lead_somewhere(folder / "report.html")
    words = " ".join(page.text.split())
    assert "base → 40" in words
    assert "Step 40 is the first half as far from base as 40 is" in words
    assert "20 → 40: a change by" in words
    for title in ("NF / unrelated, from the start", "Change, step to step", "Over the steps"):
        assert title in words
    steps = meta_of(folder / "report.html")["trajectory"]
    assert steps == {"labels": ["10", "20", "40"], "pairs": ["base-10", "base-20", "base-40"]}
    plot = meta_of(folder / "report.html")["plots"]["all-trajectory-trajectory"]
    assert [panel["x"] for panel in plot["panels"]] == [[10, 20, 40]] * 6


def test_an_index_without_a_trajectory_says_nothing_of_one(workdir: pathlib.Path) -> None:
    assert not (workdir / "tables" / "trajectory.csv").exists()
    assert "Over the steps" not in Page(workdir / "report.html").text
