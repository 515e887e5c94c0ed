"""Mixtures of experts: their order, with the router's, is one more disguise to undo."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.fingerprint.matching import match_experts
from svdjax.fingerprint.pair import open_pair
from svdjax.model import forward
from tests.fingerprint.harness import disguised, verdict
from tests.support import tiny

FAMILIES = ("qwen3_moe", "qwen2_moe")
"""Without and with a shared expert."""


@pytest.fixture(scope="module", params=FAMILIES)
def models(request, tmp_path_factory):
    """A base, what was trained from it, and a stranger."""
    root = tmp_path_factory.mktemp(request.param)
    # More tokens than dimensions: a rotation is found from the embeddings.
    base = tiny.make_checkpoint(root / "base", request.param, seed=1, dtype="float32")
    post = tiny.perturb(base, root / "post", seed=2, noise=0.05)
    other = tiny.make_checkpoint(root / "other", request.param, seed=3, dtype="float32")
    return base, post, other


@pytest.mark.parametrize("names", [("experts",), ("experts", "neurons", "updown"), ("all",)])
def test_permuted_experts_give_the_same_verdict(models, names, tmp_path):
    base, post, _ = models
    plain = verdict(base, post)
    assert plain["verdict"] == "related"
    suspect = disguised(post, tmp_path / "suspect", *names)
    found = verdict(base, suspect)
    assert found["verdict"] == "related"
    # A rotation is fitted to embeddings that changed too; all else is undone but for rounding.
    slack = 0.02 if names == ("all",) else 1e-5
    assert found["distance"] == pytest.approx(plain["distance"], abs=slack)
    # A shared expert has a fifth of them, and its place.
    assert found["alignment"]["neurons_moved"] > 0.8
    assert found["alignment"]["neurons_agree"] > 0.99


def test_disguises_of_experts_compute_the_same(models, tmp_path):
    logits = []
    for path in (models[1], disguised(models[1], tmp_path / "suspect", "all")):
        with open_checkpoint(path) as checkpoint:
            config = model_config(path)
            params = load_params(checkpoint, config)
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 16))
        logits.append(np.asarray(forward(params, config, tokens.astype(np.int32))))
    # Float32 weights whose scales were moved far: tools/disguise.py allows as much.
    assert np.abs(logits[0] - logits[1]).max() < 1e-4 * np.abs(logits[0]).max()


def test_strangers_stay_strangers_under_the_best_order(models):
    base, _, other = models
    found = verdict(base, other)
    assert found["verdict"] == "unrelated"
    assert found["distance"] > 0.9


def test_each_matrix_is_placed_by_the_others(models, tmp_path):
    base, post, _ = models
    pair = open_pair(str(base), str(disguised(post, tmp_path / "suspect", "experts")))
    a, b = pair.reference.layer(0), pair.suspect.layer(0)
    orders = match_experts(a, b)
    assert all(np.array_equal(order, orders[0]) for order in orders)
    # The tested matrix has no say: with another in its place the order is the same.
    rng = np.random.default_rng(0)
    for part, name in enumerate(("gate", "up", "down")):
        strange = rng.standard_normal(getattr(b, name).shape)
        again = match_experts(a, dataclasses.replace(b, **{name: strange}))
        np.testing.assert_array_equal(again[part], orders[part])
