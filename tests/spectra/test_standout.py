"""Matrices that stand out: named by the results, summary.json and the terminal's summary."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import svdjax
from svdjax.spectra.results import Comparison
from svdjax.spectra.standout import by_matrix, stand_outs
from svdjax.sweep.outcome import SweepOutcome
from tests.report import synthetic
from tests.support import tiny


@pytest.fixture(scope="module")
def clean() -> Comparison:
    """Two projections of 80 layers that differ as layers do."""
    return synthetic.comparison([synthetic.deep("q_proj", seed=1), synthetic.deep("down_proj")])


def planted(clean: Comparison, metric: str, layer: int, factor: float) -> Comparison:
    one = synthetic.planted(clean["down_proj"], metric, layer, factor)
    return dataclasses.replace(clean, projections=clean.projections | {one.name: one})


def row(comparison: Comparison) -> str:
    """The pair's line of the table that a sweep ends with."""
    return SweepOutcome(pathlib.Path("W"), {"pair": comparison}, None).summary().splitlines()[2]


def test_clean_layers_are_silent(clean):
    assert clean.stands_out == ()
    assert clean.summary()["stands_out"] == []
    assert row(clean).endswith("/2)  –")


@pytest.mark.parametrize(
    ("metric", "field", "factor"),
    [("alpha", "svsm", 1.15), ("nf", "nf", 2.5), ("change", "norm_delta", 2.5)],
)
@pytest.mark.parametrize("layer", [2, 41])
def test_a_planted_layer_is_named(clean, tmp_path, metric, field, factor, layer):
    odd = planted(clean, field, layer, factor)
    (entry,) = odd.stands_out
    assert entry[:3] == ("down_proj", layer, metric)
    # The spread of the layers is 0.5 % of alpha, 5 % of the others.
    assert entry.value / entry.expected == pytest.approx(factor, rel=0.2)
    if metric == "nf":
        assert entry.value == odd["down_proj"].nf[layer]
    odd.save(tmp_path)
    (listed,) = json.loads((tmp_path / "summary.json").read_text())["stands_out"]
    assert listed == entry.entry()
    assert list(listed) == ["projection", "layer", "metric", "value", "expected"]
    assert Comparison.load(tmp_path).stands_out == odd.stands_out
    assert row(odd).endswith(f"  down_proj of layer {layer} ({metric})")


@pytest.mark.parametrize("least", [1e-4, None])
def test_a_singular_value_that_crossed_zero_is_no_reason(clean, least):
    """One reversed sign makes NF hypot(NF, 2 / rank), which it may at a value near zero."""
    one = clean["down_proj"]
    nf = one.metrics.nf[41]
    odd = planted(clean, "nf", 41, np.hypot(nf, 2 / min(one.shape)) / nf)
    if least is not None:
        sigma = np.array(one.metrics.sigma_base)
        sigma[41, -1] = least
        crossed = odd["down_proj"].metrics._replace(sigma_base=sigma)
        crossed = dataclasses.replace(odd["down_proj"], metrics=crossed)
        odd = dataclasses.replace(odd, projections=odd.projections | {one.name: crossed})
    assert [entry.metric for entry in odd.stands_out] == ["nf"] * (least is None)


def test_several_are_ordered_by_their_distance_and_counted(clean):
    odd = clean
    for layer, factor in ((10, 1.15), (25, 1.3), (40, 1.2), (60, 0.6)):
        odd = planted(odd, "svsm", layer, factor)
    odd = planted(odd, "norm_delta", 25, 3.0)
    assert [(name, place.layer) for name, place in by_matrix(odd.stands_out)] == [
        ("down_proj", layer) for layer in (25, 60, 40, 10)
    ]
    assert row(odd).endswith(
        "down_proj of layer 25 (alpha, change); down_proj of layer 60 (alpha); 2 more"
    )


def test_tensors_of_an_unknown_architecture_are_layers_of_one_projection(clean):
    odd = planted(clean, "svsm", 7, 1.15)["down_proj"]
    ones = [
        synthetic.part(odd, layer, name=f"h.{layer}.mlp.w2.weight") for layer in range(odd.layers)
    ]
    # Neither their order in the file nor other tensors matter.
    other = synthetic.part(odd, 7, name="head.weight")
    (entry,) = stand_outs([other, *reversed(ones)])
    assert entry[:3] == ("h.7.mlp.w2.weight", 0, "alpha")
    comparison = synthetic.comparison([other, *ones])
    assert row(comparison).endswith("h.7.mlp.w2.weight (alpha)")
    # Where two numbers vary there is no order.
    assert not stand_outs(
        dataclasses.replace(one, name=f"h.{i % 8}.expert.{i // 8}.w") for i, one in enumerate(ones)
    )


def test_a_scaled_matrix_of_a_real_checkpoint_is_named(tmp_path):
    # All of one shape, for which there is one program.
    base = tiny.make_checkpoint(
        *(tmp_path / "base", "llama"),
        dtype="float32",
        num_hidden_layers=12,
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_key_value_heads=4,
    )
    post = tiny.perturb(base, tmp_path / "post", noise=0.01)
    assert svdjax.compare(base, post, measure="vectors").stands_out == ()
    file = post / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.5.mlp.down_proj.weight"] *= np.float32(1.15)
    save_file(tensors, file, metadata={"format": "pt"})
    (entry,) = svdjax.compare(base, post, measure="vectors").stands_out
    assert entry[:3] == ("down_proj", 5, "alpha")
    # A change of 1 % moves a mean of 14 singular values by less.
    assert entry.value == pytest.approx(1.15, abs=0.01)
    assert entry.expected == pytest.approx(1.0, abs=0.01)
