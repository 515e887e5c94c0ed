"""Controls of constructions as checkpoints: as far from post as the construction, and as named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.construct.controls import CONTROLS
from svdjax.construct.job import ConstructJob
from svdjax.construct.tree import construct, leaf_at
from svdjax.errors import InputError
from tests.construct import harness
from tests.construct.test_card import of, tables
from tests.spectral import reference
from tests.support import tiny

MODULES = "self_attn"
LAYERS = "1-2"


@pytest.fixture(scope="module")
def written(models, tmp_path_factory):
    """Eq. 11 on some layers of a float32 pair, with its three controls: outcomes by name."""
    base, post, _ = models("llama")
    root = tmp_path_factory.mktemp("controls")
    options: Any = {"modules": MODULES, "layers": LAYERS}
    return {
        control or "construction": harness.run(
            base, post, "eq11", root / (control or "eq11"), control=control, **options
        )
        for control in ("", *CONTROLS)
    }


def edited(post) -> list[str]:
    """Names of the chosen tensors."""
    return [
        name
        for name in tiny.read_tensors(post)
        if ".self_attn." in name and name.endswith("_proj.weight") and name.split(".")[2] in "12"
    ]


def stored(side) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float64) for name, value in tiny.read_tensors(side).items()}


@pytest.mark.parametrize("control", CONTROLS)
def test_every_matrix_is_moved_as_far_as_by_the_construction(control, written, models):
    base, post, _ = (stored(side) for side in models("llama"))
    restored, found = (stored(written[name].path) for name in ("construction", control))
    chosen = edited(models("llama")[1])
    assert len(chosen) == 8
    for name, value in found.items():
        if name not in chosen:
            np.testing.assert_array_equal(value, post[name])
            continue
        distance = np.linalg.norm(restored[name] - post[name])
        moved = value - post[name]
        wanted = reference.controlled(control, base[name], post[name], distance, moved)
        # Rounded to float32, entries of up to about 10.
        np.testing.assert_allclose(value, wanted, atol=1e-6)
        whole = np.linalg.norm(base[name] - post[name])
        size = {"noise": distance, "interpolated": min(distance, whole)}.get(control, whole)
        assert np.linalg.norm(moved) == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize("control", ["", *CONTROLS])
def test_card_and_summary_say_what_survives(control, written, models):
    base, post, _ = models("llama")
    outcome = written[control or "construction"]
    about, rows = tables((outcome.path / "README.md").read_text("utf-8"))
    if control:
        assert about["control"] == control
        assert about["new W_post"] == CONTROLS[control]
    assert ("seed" in about) == (control == "noise")
    for name, row in rows.items():
        sides = (of(name, (1, 2), side) for side in (outcome.path, base, post))
        shares = [reference.surviving(*three) for three in zip(*sides)]
        change = outcome.changes[name]
        assert change.surviving == pytest.approx(np.mean(shares), rel=1e-4, abs=1e-5)
        assert row["surviving"] == f"{change.surviving:.4g}"
        assert f"{name}: 2 matrices" in outcome.summary()
        assert f"surviving share of Delta {change.surviving:.4g}" in outcome.summary()
        predicted = 0.75 if name in ("k_proj", "v_proj") else 0.5  # 64 x 32, tall; or square
        assert row["predicted"] == ("–" if control else f"{predicted:.4g}")


def test_the_pytree_gives_the_same_noise(written, models):
    base, post, _ = models("llama")
    trees = []
    for side in (base, post, written["noise"].path):
        with open_checkpoint(side) as checkpoint:
            trees.append(load_params(checkpoint, model_config(side)))
    before, after, wanted = trees
    # What is drawn for a matrix does not depend on what else is chosen.
    how: Any = {"modules": "k_proj", "layers": [1, 2], "control": "noise"}
    path = "layers/self_attn/k_proj/kernel"
    found = construct(before, after, "eq11", **how)
    np.testing.assert_allclose(leaf_at(found, path), leaf_at(wanted, path), atol=1e-6)
    other = construct(before, after, "eq11", **how, seed=1)
    assert np.abs(np.asarray(leaf_at(other, path)) - leaf_at(wanted, path))[1].max() > 0.01
    # Another post model's rotation is eq. 12's; the way back is still towards base.
    how = {"modules": "v_proj", "control": "reverted"}
    back = construct(after, after, "eq12", base=before, **how)
    path = "layers/self_attn/v_proj/kernel"
    np.testing.assert_array_equal(leaf_at(back, path), leaf_at(before, path))
    with pytest.raises(InputError, match="base is not given: the controls of eq12"):
        construct(after, after, "eq12", **how)
    with pytest.raises(InputError, match="did you mean 'noise'"):
        construct(before, after, "eq11", modules="v_proj", control="nois")


def test_controls_of_eq12_go_back_to_base(models, tmp_path):
    base, post, other = models("llama")
    how: Any = {"modules": "v_proj", "layers": "0", "other": str(other)}
    done = harness.run(base, post, "eq12", tmp_path / "out", control="reverted", **how)
    name = "model.layers.0.self_attn.v_proj.weight"
    found, before = tiny.read_tensors(done.path)[name], tiny.read_tensors(base)[name]
    np.testing.assert_array_equal(found, before.astype(np.float32))
    assert "does not enter" not in (done.path / "README.md").read_text("utf-8")
    assert done.changes["v_proj"].surviving == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"control": "nose"}, "--control=nose: expected noise or"),
        ({"control": "reverted", "seed": 1}, "only --control=noise draws anything"),
        ({"seed": 3}, "only --control=noise draws anything"),
        ({"control": "noise", "seed": -1}, "--seed=-1: expected 0 or more"),
        ({"control": "noise", "seed": 2**32}, "--seed=4294967296: expected 0 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    job = {"base": "a", "post": "b", "out": "c", "construction": "eq11", "modules": "mlp"}
    with pytest.raises(InputError) as caught:
        ConstructJob(**(job | options))
    assert words in str(caught.value)
