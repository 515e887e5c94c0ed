"""Sentences about what storage carries: none where it is everything, else what the numbers say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from svdjax.report.panels import panels
from svdjax.spectra.findings import findings, lead, projection_lines
from svdjax.spectra.results import Comparison
from svdjax.spectra.tables import pair_tables, pairs_table
from svdjax.spectra.views import pair_views


def limited(comparison: Comparison, lost: int, *, layers: int = 3, **fields) -> Comparison:
    """The same, as if the last directions of q_proj's base were rounding in its first layers."""
    one = comparison["q_proj"]
    ranks = np.array(one.metrics.stored_rank_base)
    ranks[:layers] -= lost
    metrics = one.metrics._replace(
        stored_rank_base=ranks, storage_eps_base=np.full(3, 2.0**-7), **fields
    )
    return dataclasses.replace(
        comparison,
        projections=comparison.projections | {"q_proj": dataclasses.replace(one, metrics=metrics)},
    )


def text_of(comparison: Comparison) -> str:
    lines = [line for _, line in projection_lines(comparison)]
    views = [str(view) for view in pair_views(pair_tables(comparison, None), None)]
    return "\n".join([lead(comparison), *findings(comparison, None), *lines, *views])


def test_a_model_of_full_rank_is_told_as_ever(related):
    assert all(one.carried is one for one in related.projections.values())
    assert "carr" not in text_of(related)
    # One direction of 16 is a stray.
    assert text_of(limited(related, 1)) == text_of(related)


def test_what_storage_does_not_carry_is_left_out(related):
    stored = np.array([0.01, 0.02, 0.03])
    low = limited(related, 6, nf_stored=stored, nf_rounding=np.full(3, 0.004))
    one, plain = low["q_proj"], related["q_proj"]
    note = "rank 10 of 16 in what bf16 can carry"
    assert f"3 of 21 matrices hold rounding beyond {note}" in lead(low)
    sentence = next(line for line in findings(low, None) if line.startswith("Storage:"))
    assert f"(q_proj) have {note}" in sentence
    assert f"{plain.alpha_mean:.4f}" in sentence
    assert "moves NF by about 0.0040" in sentence
    lines = dict(projection_lines(low))
    assert lines["q_proj"].endswith(f"Storage limits it: {note}.")
    assert "NF 0.0200" in lines["q_proj"]
    assert lines["k_proj"] == dict(projection_lines(related))["k_proj"]
    # Nine of the ten directions that are left count.
    want = plain.svsm[:, :9]
    assert one.carried.alpha_mean == pytest.approx(want.mean())
    assert one.carried.alpha_std == pytest.approx(want.std())
    assert f"{one.carried.alpha_mean:.4f}" in lines["q_proj"]
    # Plain and restricted numbers side by side, and in figures the restricted ones.
    (row,) = [row for row in pair_tables(low, None)["nf"].rows if row["projection"] == "q_proj"]
    assert (row["nf_mean"], row["nf_stored_mean"]) == (plain.nf_mean, stored.mean())
    assert pairs_table({"pair": low}).rows[0]["nf_mean"] == pytest.approx(0.02)
    np.testing.assert_array_equal(panels([one])[0].stack("nf"), stored)


def test_some_layers_alone(related):
    low = limited(related, 6, layers=1, nf_stored=np.full(3, 0.01))
    note = "rank 10 of 16 in what bf16 can carry"
    assert f"1 of 21 matrices hold rounding beyond {note}" in lead(low)
    assert f"Storage limits it in 1 of 3 layers: {note}." in dict(projection_lines(low))["q_proj"]
    nf = low["q_proj"].carried.nf
    np.testing.assert_array_equal(nf, np.r_[0.01, related["q_proj"].nf[1:]])


def test_nothing_above_the_rounding(related):
    low = limited(related, 16, nf_stored=np.full(3, np.nan))
    line = dict(projection_lines(low))["q_proj"]
    assert "rank 0 of 16 in what bf16 can carry" in line
    assert "No direction stands out" in line
    assert np.isnan(low["q_proj"].carried.alpha_mean)
    assert "rank 0 of 16" in lead(low)
