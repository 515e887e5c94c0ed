"""Mixtures of experts: an axis of their own, equal to dense matrices, named where they differ."""

from __future__ import annotations

import csv
import dataclasses
import json
from typing import Any

import numpy as np
import pytest

import svdjax
from svdjax.checkpoint.experts import choose_experts, with_experts
from svdjax.engine.inputs import PairJob
from svdjax.spectra.pair import _compare, _settings
from svdjax.spectra.results import Comparison
from svdjax.spectra.storage_findings import quantisation_finding, quantisation_lead
from svdjax.spectral.outliers import among_experts
from svdjax.sweep.config import Settings
from svdjax.sweep.pages import write_report
from tests.support import experts as mixtures
from tests.support.schemas import check

LAYERS, EXPERTS, SHAPE = 3, 10, (16, 16)
NUMBERS = tuple(range(0, 2 * EXPERTS, 2))
DEEP = (3, 4, 5)
"""Layers of the experts, after dense ones."""
ODD = (1, 7)
"""Layer and expert, by their places, whose gate was changed most."""


def compared(job: PairJob) -> Comparison:
    # Groups of four matrices: experts of several layers in one.
    return _compare(job, _settings(group_bytes=8 * 4 * SHAPE[0] * SHAPE[1]))


@pytest.fixture(scope="module")
def stacks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    gate = mixtures.random_pair(LAYERS, EXPERTS, SHAPE)
    gate[1][ODD] += 0.4 * rng.standard_normal(SHAPE).astype(np.float32)
    dense = mixtures.random_pair(6, 1, SHAPE, seed=2)
    return {
        "q_proj": (dense[0][:, 0], dense[1][:, 0]),
        "gate_proj": gate,
        "up_proj": mixtures.random_pair(LAYERS, EXPERTS, SHAPE, seed=1),
    }


@pytest.fixture(scope="module")
def job(stacks) -> PairJob:
    base, post = ({name: sides[k] for name, sides in stacks.items()} for k in (0, 1))
    layers = {"gate_proj": DEEP, "up_proj": DEEP}
    return mixtures.job(base, post, layers=layers, experts=NUMBERS)


@pytest.fixture(scope="module")
def mixture(job) -> Comparison:
    return compared(job)


def test_experts_are_the_same_matrices_written_dense(mixture, stacks):
    flat = {n: [side.reshape(-1, *SHAPE) for side in sides] for n, sides in stacks.items()}
    dense = compared(mixtures.job(*({n: s[k] for n, s in flat.items()} for k in (0, 1))))
    for name in ("gate_proj", "up_proj"):
        one, other = mixture[name], dense[name]
        assert (one.layers, one.experts, one.matrices) == (LAYERS, EXPERTS, other.matrices)
        for field, values in one.metrics._asdict().items():
            expected = np.asarray(getattr(other.metrics, field))
            assert values.shape == (LAYERS, EXPERTS, *expected.shape[1:])
            np.testing.assert_array_equal(values.reshape(expected.shape), expected)
        for statistic in ("alpha_mean", "alpha_std", "nf_mean", "corotation_mean"):
            assert getattr(one, statistic) == getattr(other, statistic)
        assert one.corotation_pooled == other.corotation_pooled
        # By layer: the mean over all its experts and the top 90 % of each.
        top = np.asarray(one.svsm)[..., : int(0.9 * SHAPE[0])].reshape(LAYERS, -1)
        mean, std = one.layer_moments
        np.testing.assert_allclose(mean, top.mean(axis=1), rtol=1e-14)
        np.testing.assert_allclose(std, top.std(axis=1), rtol=1e-12)


def test_files_have_the_axis_and_the_numbers(mixture, tmp_path):
    mixture.save(tmp_path)
    with np.load(tmp_path / "spectra.npz") as spectra, np.load(tmp_path / "vectors.npz") as vectors:
        assert spectra["gate_proj/nf"].shape == (LAYERS, EXPERTS)
        assert spectra["gate_proj/svsm"].shape == (LAYERS, EXPERTS, SHAPE[0])
        assert vectors["up_proj/sim_u"].shape == (LAYERS, EXPERTS, 16, 16)
        assert spectra["q_proj/nf"].shape == (6,)
    summary = json.loads((tmp_path / "summary.json").read_text())
    check(tmp_path / "summary.json", "summary")
    gate, q = summary["projections"]["gate_proj"], summary["projections"]["q_proj"]
    assert (gate["layers"], gate["experts"], q["experts"]) == (LAYERS, EXPERTS, 1)
    assert gate["layer_numbers"] == list(DEEP)
    assert gate["expert_numbers"] == list(NUMBERS)
    assert not {"layer_numbers", "expert_numbers"} & set(q)
    assert len(gate["alpha_layer_mean"]) == LAYERS
    assert summary["options"]["experts"] == "all"
    again = Comparison.load(tmp_path)
    assert again.summary() == mixture.summary()
    assert again["gate_proj"].expert_numbers == NUMBERS


def test_rounding_of_experts_is_that_of_their_matrices(mixture):
    gate = mixture["gate_proj"]
    for values, flat in zip(gate.rounding, gate.flat.rounding):
        assert values.shape == (LAYERS, EXPERTS)
        np.testing.assert_array_equal(values.ravel(), flat)


def test_sentences_on_quantised_experts_count_matrices(mixture):
    gate = mixture["gate_proj"]
    coarse = np.full((LAYERS, EXPERTS), 0.5)
    metrics = gate.metrics._replace(storage_eps_base=coarse, storage_eps_post=coarse)
    quantised = [dataclasses.replace(gate, metrics=metrics)]
    total = f"{LAYERS * EXPERTS} of {LAYERS * EXPERTS} matrices"
    assert f"Quantisation: {total} are stored" in quantisation_finding(quantised)
    assert f"of {LAYERS * EXPERTS} matrices" in quantisation_lead(quantised)


def test_the_expert_that_changed_most_is_named_by_its_numbers(mixture, tmp_path):
    layer, expert = DEEP[ODD[0]], NUMBERS[ODD[1]]
    odd = [entry for entry in mixture.stands_out if entry.projection == "gate_proj"]
    assert {(entry.layer, entry.expert) for entry in odd} == {(layer, expert)}
    assert "change" in {entry.metric for entry in odd}
    write_report(tmp_path, {"pair": mixture})
    with (tmp_path / "pair" / "tables" / "experts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == LAYERS * EXPERTS
    assert (int(rows[0]["layer"]), int(rows[0]["expert"])) == (layer, expert)
    assert rows[0]["change_of"] == "gate_proj"
    sizes = [float(row["change"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    # From the definition, of the two matrices of the second.
    m = [mixture[name].metrics for name in ("gate_proj", "up_proj")]
    place = DEEP.index(int(rows[1]["layer"])), NUMBERS.index(int(rows[1]["expert"]))
    delta, post = (
        np.linalg.norm([getattr(x, f)[place] for x in m]) for f in ("norm_delta", "norm_post")
    )
    assert sizes[1] == pytest.approx(delta / post, rel=1e-14)
    with (tmp_path / "pair" / "tables" / "layers.csv").open() as file:
        matrices = list(csv.DictReader(file))
    (marked,) = (row for row in matrices if row["stands_out"])
    assert (marked["projection"], marked["layer"], marked["expert"]) == (
        *("gate_proj", str(layer), str(expert)),
    )
    assert {row["expert"] for row in matrices if row["projection"] == "q_proj"} == {""}
    text = (tmp_path / "report.html").read_text()
    assert f"gate_proj of layer {layer}, expert {expert}" in text
    assert f"layer {layer}, expert {expert}: " in json.dumps(mixture.summary()["verdicts"])


def test_stacks_of_a_pytree_are_experts_where_their_path_says_so(stacks, mixture):
    def tree(side: int) -> dict:
        kernel = stacks["gate_proj"][side]
        return {"experts": {"gate": {"kernel": kernel}}, "conv": {"kernel": kernel}}

    compared = svdjax.compare_params(tree(0), tree(1), group_bytes=8 * 4 * SHAPE[0] * SHAPE[1])
    result = compared["experts/gate"]
    assert (result.layers, result.expert_numbers) == (LAYERS, tuple(range(EXPERTS)))
    np.testing.assert_array_equal(result.nf, mixture["gate_proj"].nf)
    assert "not a matrix" in compared.coverage["left_out"]["conv/kernel"]


def test_frames_have_experts(mixture):
    pytest.importorskip("pandas")
    frame = mixture.to_dataframe()
    row = frame[(frame.projection == "gate_proj") & (frame.layer == 4) & (frame.expert == 14)]
    assert row.nf.item() == mixture["gate_proj"].nf[1, 7]
    assert frame[frame.projection == "q_proj"].expert.isna().all()
    pytest.importorskip("xarray")
    data = mixture.to_xarray()
    assert data.svsm.dims == ("pair", "projection", "layer", "expert", "direction")
    one = data.nf.sel(pair="pair", projection="gate_proj", layer=4, expert=14)
    assert one.item() == mixture["gate_proj"].nf[1, 7]
    dense = data.nf.sel(pair="pair", projection="q_proj", expert=-1)
    np.testing.assert_array_equal(dense, mixture["q_proj"].nf)
    assert np.isnan(data.nf.sel(pair="pair", projection="q_proj", expert=14)).all()


def test_a_choice_of_experts_is_seeded_nested_and_accounted_for(job, mixture):
    assert choose_experts(64, 3) == choose_experts(64, 3)
    assert set(choose_experts(64, 3)) < set(choose_experts(64, 8))
    some = with_experts(job.plan, 4)
    numbers = tuple(NUMBERS[place] for place in choose_experts(EXPERTS, 4))
    assert {one.experts for one in some.projections} == {(), numbers}
    names = {name for one in job.plan.projections for name in one.tensors}
    left_out = dict(some.coverage["left_out"])
    assert {*some.coverage["analysed"], *left_out} == names
    assert not {*some.coverage["analysed"]} & {*left_out}
    assert len(left_out) == 2 * LAYERS * (EXPERTS - 4)
    assert all("config.experts" in reason for reason in left_out.values())
    assert any(
        f"4 of {EXPERTS} experts of each layer" in note and "default_rng(0)" in note
        for note in some.coverage["notes"]
    )
    chosen = compared(dataclasses.replace(job, plan=some))
    places = list(choose_experts(EXPERTS, 4))
    # The same programs, in other groups.
    np.testing.assert_allclose(
        chosen["gate_proj"].nf, mixture["gate_proj"].nf[:, places], rtol=1e-12
    )
    assert with_experts(job.plan, 0) is with_experts(job.plan, EXPERTS) is job.plan


@pytest.mark.parametrize("wrong", ["0", "-1", "some", "1.5", ""])
def test_a_wrong_number_of_experts_is_refused(wrong):
    (fault,) = (text for text in _faults(wrong) if "experts" in text)
    assert "expected all, or a number of experts" in fault


def _faults(experts: str, **leaves: Any) -> list[str]:
    return Settings(experts=experts, **leaves).faults()


def test_constructions_of_some_experts_are_refused():
    (fault,) = _faults("4", stages=("spectra", "constructions"))
    assert "constructions edit every expert" in fault


def test_what_stands_out_among_experts():
    rng = np.random.default_rng(0)
    change = 0.02 * np.exp(0.1 * rng.standard_normal((12, 64)))
    assert among_experts({"change": change}) == []
    planted = change.copy()
    planted[5, 9] *= 4
    planted[5, 11] = np.nan
    (entry,) = among_experts({"change": planted})
    assert (entry.layer, entry.expert, entry.value) == (5, 9, planted[5, 9])
    assert entry.expected == pytest.approx(np.nanmedian(planted[5]))
    # A layer whose experts all changed more is one entry, of no expert.
    planted = change.copy()
    planted[5] *= 4
    (entry,) = among_experts({"change": planted})
    assert (entry.layer, entry.expert) == (5, None)
    # A quarter of a layer is a pattern.
    planted = change.copy()
    planted[5, :16] *= 4
    assert among_experts({"change": planted}) == []
    # Of few experts the spread is not known.
    few = change[:, :4].copy()
    few[5, 2] *= 9
    assert among_experts({"change": few}) == []
