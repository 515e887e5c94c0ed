"""Loss and KL on held-out text, against numpy float64 from logits."""

from __future__ import annotations

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from svdjax import reference
from svdjax.behaviour import Divergences, Rows, divergence, read_texts, tokenise
from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.engine.devices import layer_mesh
from svdjax.model import forward
from tests.support import tiny


def load(path, dtype: Any = np.float32) -> tuple[Any, Any]:
    config = model_config(path)
    with open_checkpoint(path) as checkpoint:
        return load_params(checkpoint, config, dtype), config


def rows_of(lengths, seed=0) -> Rows:
    rng = np.random.default_rng(seed)
    tokens = tuple(rng.integers(3, 60, length).astype(np.int32) for length in lengths)
    weights = tuple((rng.random(length - 1) < 0.7).astype(np.float32) for length in lengths)
    return Rows(tokens, weights)


def expected(logits, rows: Rows) -> dict[str, float]:
    """`logits(tokens [1, T])` of original and edited; everything in float64."""
    sums: dict[str, float] = dict.fromkeys(("loss", "kl", "same", "original"), 0.0)
    for tokens, weights in zip(rows.tokens, rows.weights):
        p, q = (np.asarray(each(tokens[None, :-1]), np.float64)[0] for each in logits)
        # Shifted by the largest, so that nothing overflows.
        p, q = (x - x.max(-1, keepdims=True) for x in (p, q))
        p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
        index = np.arange(len(weights))
        sums["original"] -= np.sum(weights * p[index, tokens[1:]])
        sums["loss"] -= np.sum(weights * q[index, tokens[1:]])
        sums["kl"] += np.sum(weights * np.sum(np.exp(p) * (p - q), -1))
        sums["same"] += np.sum(weights * (p.argmax(-1) == q.argmax(-1)))
    return {name: value / rows.targets for name, value in sums.items()}


def check(found, wanted) -> None:
    # float32 sums over a vocabulary and a few hundred tokens.
    assert found.loss == pytest.approx(wanted["loss"], rel=1e-5)
    assert found.original_loss == pytest.approx(wanted["original"], rel=1e-5)
    assert found.kl == pytest.approx(wanted["kl"], rel=1e-4, abs=1e-7)
    assert found.agreement == pytest.approx(100 * wanted["same"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    post = tiny.make_checkpoint(root / "post", "llama", seed=5)
    return post, tiny.perturb(post, root / "edited", seed=6, noise=0.3)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of((5, 33, 34, 60, 12, 64))


def test_agrees_with_float64_from_our_logits(pair, rows):
    (original, config), (edited, _) = map(load, pair)
    found = Divergences(original, config, rows).measure(edited)
    logits = [lambda t, p=p: forward(p, config, t) for p in (original, edited)]
    check(found, expected(logits, rows))
    assert found.tokens == rows.targets
    assert found.kl > 0.1


def test_agrees_with_float64_from_transformers(pair, rows):
    pytest.importorskip("torch")
    from tests.model.test_transformers import reference_logits

    (original, config), (edited, _) = map(load, pair)
    found = Divergences(original, config, rows).measure(edited)
    check(found, expected([lambda t, p=p: reference_logits(p, t) for p in pair], rows))


def test_a_model_does_not_differ_from_itself(pair, rows):
    original, config = load(pair[0])
    found = Divergences(original, config, rows).measure(original)
    assert (found.kl, found.agreement, found.loss) == (0.0, 100.0, found.original_loss)


def test_batches_padding_and_devices_do_not_matter(pair, rows):
    (original, config), (edited, _) = map(load, pair)
    one = Divergences(original, config, rows).measure(edited)
    for other in (
        Divergences(original, config, rows, batch_bytes=1),
        Divergences(original, config, rows, mesh=layer_mesh(2)),
    ):
        np.testing.assert_allclose(other.measure(edited), one, rtol=1e-5)


def test_stored_dtype_does_not_matter(pair, rows):
    (original, config), (edited, _) = (load(path, None) for path in pair)
    assert jax.tree.leaves(original)[0].dtype == ml_dtypes.bfloat16
    found = Divergences(original, config, rows).measure(edited)
    wide = [load(path)[0] for path in pair]
    assert found == Divergences(wide[0], config, rows).measure(wide[1])


def test_outputs_that_are_not_finite_are_said(pair, rows):
    original, config = load(pair[0])
    broken = jax.tree.map(np.array, original)
    broken["norm"]["scale"][:] = np.inf
    found = Divergences(original, config, rows).measure(broken)
    assert np.isnan([found.loss, found.kl, found.agreement]).all()
    assert np.isfinite(found.original_loss)


def test_each_length_is_traced_once(pair, rows):
    traced: Any = divergence._sums
    original, config = load(pair[0])
    many = rows_of((20, 25, 31, 50, 60, 61), seed=1)
    measured = Divergences(original, config, many)
    before = traced._cache_size()
    measured.measure(original)
    measured.measure(jax.tree.map(lambda leaf: 1.01 * leaf, original))
    assert traced._cache_size() - before <= 2


def test_production_types(pair, rows):
    (original, config), (edited, _) = map(load, pair)
    wanted = Divergences(original, config, rows).measure(edited)
    with jax.enable_x64(False):
        np.testing.assert_allclose(
            Divergences(original, config, rows).measure(edited), wanted, rtol=1e-6
        )


def test_shipped_models_know_their_shipped_texts():
    losses = {}
    for name in ("instruct", "reasoning"):
        path = reference.path(name)
        original, config = load(path)
        rows = tokenise(read_texts(reference.text_path(name), 27), path, config, name)
        losses[name] = Divergences(original, config, rows).measure(original).loss
    # Right answers in their own format: what svdjax/reference/README.md calls the held-out loss.
    assert max(losses.values()) < 0.01
