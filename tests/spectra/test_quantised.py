"""Quantised models against a base in bf16: numbers, what hides in the steps, writing."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import svdjax
from svdjax.checkpoint import open_checkpoint, plan_pair
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.spectra.findings import findings, lead
from svdjax.spectra.results import Comparison
from tests.support import quantised as packs
from tests.support import tiny
from tests.support.adapters import make_adapter

PACKERS = {
    "fp8": lambda w: packs.fp8_blocks(w, 32),
    "GPTQ": packs.gptq,
    "nf4": packs.bnb4,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A base, and two models that it became: the same, and one whose entries moved by a third."""
    folder = tmp_path_factory.mktemp("quantised")
    base = tiny.make_checkpoint(folder / "base", "llama", dtype="bfloat16")
    tensors, rng = load_file(base / "model.safetensors"), np.random.default_rng(3)
    for name, w in tensors.items():
        if w.ndim == 2:
            moved = w.astype(np.float32)
            moved += 0.3 * moved.std() * rng.standard_normal(w.shape).astype(np.float32)
            tensors[name] = moved.astype(w.dtype)
    (folder / "moved").mkdir()
    save_file(tensors, folder / "moved" / "model.safetensors", metadata={"format": "pt"})
    config = (base / "config.json").read_text()
    (folder / "moved" / "config.json").write_text(config)
    for name, pack in PACKERS.items():
        packs.quantise(base, folder / f"same {name}", pack)
        values = packs.quantise(folder / "moved", folder / f"moved {name}", pack)
        (folder / f"plain {name}").mkdir()
        (folder / f"plain {name}" / "config.json").write_text(config)
        save_file(values, folder / f"plain {name}" / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def compared(models: pathlib.Path) -> dict[str, Comparison]:
    return {
        f"{kind} {name}": svdjax.compare(
            models / "base", models / f"{kind} {name}", measure="vectors"
        )
        for kind in ("same", "moved", "plain")
        for name in PACKERS
    }


@pytest.mark.parametrize("name", PACKERS)
def test_the_numbers_are_those_of_the_floats(compared: dict[str, Comparison], name: str) -> None:
    for key, one in compared[f"moved {name}"].projections.items():
        plain = compared[f"plain {name}"][key].metrics
        for field in ("sigma_post", "nf", "alpha_ls", "corotation", "norm_delta", "i_orth"):
            np.testing.assert_array_equal(getattr(one.metrics, field), getattr(plain, field))
        np.testing.assert_array_equal(one.metrics.storage_eps_base, 2.0**-7)
        assert (one.metrics.storage_eps_post > plain.storage_eps_post).all()
        assert (one.metrics.nf_rounding > plain.nf_rounding).all()
        assert (one.metrics.sigma_rounding > plain.sigma_rounding).all()


@pytest.mark.parametrize("name", PACKERS)
def test_steps_alone_make_the_change_that_they_are_said_to(
    compared: dict[str, Comparison], name: str
) -> None:
    for one in compared[f"same {name}"].projections.values():
        m, rounding = one.metrics, one.rounding
        # Post is base, rounded: what is seen is the steps (nf4's are estimated to 10 %).
        seen = np.asarray(m.norm_delta) / m.norm_post
        np.testing.assert_allclose(rounding.change, seen, rtol=0.13)
        assert rounding.hidden.all()
        # NF of a few small singular values of square matrices decides it: half as much again.
        ratio = np.asarray(one.carried.nf) / m.nf_rounding
        assert 1 / 1.6 < np.median(ratio) < 1.6
        assert (abs(one.statistics.layer_mean - 1) <= rounding.alpha).all()
        moved = np.abs(np.asarray(m.sigma_post) - m.sigma_base).max(axis=1)
        assert (moved <= 1.15 * np.asarray(m.sigma_rounding)).all()
        np.testing.assert_allclose(rounding.corotation, 0.5, rtol=0.25)


@pytest.mark.parametrize("name", PACKERS)
def test_what_hides_in_the_steps_is_said(compared: dict[str, Comparison], name: str) -> None:
    same, moved = compared[f"same {name}"], compared[f"moved {name}"]
    assert "In 28 of 28 matrices the change is hardly larger than what quantisation" in lead(same)
    assert "quantisation" not in lead(moved)
    for one in (same, moved):
        (line,) = [text for text in findings(one, None) if text.startswith("Quantisation: ")]
        assert "28 of 28 matrices are stored in steps that alone make a change of" in line
        assert ("what is seen may be nothing else" in line) == (one is same)
        (note,) = [text for text in one.coverage["notes"] if "is quantised" in text]
        assert "28 matrices are read as" in note
    entry = moved.summary()["projections"]["q_proj"]
    assert entry["hidden_layers"] == 0
    assert 0.01 < entry["change_rounding_max"] < 0.15
    assert 0 < entry["corotation_rounding_max"] < 0.1
    assert entry["alpha_rounding_max"] > 0


def test_plain_floats_have_nothing_of_it(compared: dict[str, Comparison]) -> None:
    plain = compared["plain fp8"]
    text = " ".join([lead(plain), *findings(plain, None), *plain.coverage["notes"]])
    assert "uantis" not in text


@pytest.mark.parametrize("name", PACKERS)
def test_what_is_written_is_bf16(models: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    source = open_checkpoint(models / f"moved {name}")
    replaced = "model.layers.0.mlp.up_proj.weight"
    with CheckpointRewrite(source, tmp_path / "out", replaced=[replaced], identity=0) as rewrite:
        assert list(rewrite.copy()) == ["model.safetensors"]
        rewrite.write({replaced: source.read(replaced)}, {replaced: None})
        rewrite.finish("")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == set(source.names)
    for key, tensor in tensors.items():
        assert tensor.dtype == packs.BF16
        np.testing.assert_array_equal(tensor, source.read(key).astype(packs.BF16))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert "quantization_config" not in config


@pytest.mark.parametrize("name", PACKERS)
def test_steps_hide_nothing_between_a_base_and_its_adapter(
    models: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    base = models / f"same {name}"
    adapter = make_adapter(tmp_path / "adapter", models / "base")
    pair = svdjax.compare(base, adapter, measure="vectors")
    assert any("have the same codes" in note for note in pair.coverage["notes"])
    for one in pair.projections.values():
        plain = {2.0**-7, 2.0**-10, 2.0**-23}
        assert set(np.ravel(one.metrics.storage_eps_base)) <= plain
        assert set(np.ravel(one.metrics.storage_eps_post)) <= plain
    assert "uantis" not in lead(pair)
    assert not any("Quantisation" in text for text in findings(pair, None))
    # Between another model and the merged one they do.
    merged = open_checkpoint(adapter, lambda: open_checkpoint(base))
    plan = plan_pair(open_checkpoint(models / "base"), merged)
    assert not any(plan.shares_codes(name) for name in plan.coverage["analysed"])
