"""Loss and KL on held-out text, against numpy float64 from logits."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.construct.tree import construct
from svdjax.engine.devices import layer_mesh
from svdjax.model import forward
from svdjax.text import divergence
from svdjax.text.divergence import Divergence, Divergences
from svdjax.text.texts import Rows
from tests.model.loading import traces
from tests.support import tiny
from tests.text.expected import expected, random_rows

# Lengths in two buckets, on both sides of their edges; 1 + 32 tokens are 32 inputs.
LENGTHS = (5, 33, 34, 60, 12, 64, 2)


def load(path: pathlib.Path, dtype: Any = np.float32) -> tuple[Any, Any]:
    config = model_config(path)
    with open_checkpoint(path) as checkpoint:
        return load_params(checkpoint, config, dtype), config


def make_pair(folder: pathlib.Path, family: str) -> tuple[pathlib.Path, pathlib.Path]:
    post = tiny.make_checkpoint(folder / f"{family}-post", family, seed=5)
    return post, tiny.perturb(post, folder / f"{family}-edited", seed=6, noise=0.3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"), "llama")


@pytest.fixture(scope="module")
def loaded(pair):
    (original, config), (edited, _) = map(load, pair)
    return original, edited, config


@pytest.fixture(scope="module")
def rows() -> Rows:
    return random_rows(LENGTHS)


@pytest.fixture(scope="module")
def found(loaded, rows) -> Divergence:
    original, edited, config = loaded
    return Divergences(original, config, rows).measure(edited)


def check(found: Divergence, wanted: Divergence, loss: float, kl: float) -> None:
    assert found.tokens == wanted.tokens
    assert found.loss == pytest.approx(wanted.loss, rel=loss)
    assert found.original_loss == pytest.approx(wanted.original_loss, rel=loss)
    assert found.kl == pytest.approx(wanted.kl, rel=kl)
    assert found.agreement == pytest.approx(wanted.agreement)


# The end tied or not, logits capped or not, and the rotary factors that change with the length.
@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi3"])
def test_agrees_with_float64_from_our_logits(family, tmp_path):
    (original, config), (edited, _) = map(load, make_pair(tmp_path, family))
    # Shorter than phi3's original context (longrope) together with longer ones, in one batch.
    rows = random_rows((9, 33))
    found = Divergences(original, config, rows).measure(edited)

    def logits(params):
        def run(tokens):
            # Of one shape for all rows; padding changes nothing, as test_decoder.py shows.
            length = tokens.shape[1]
            padded = np.pad(tokens, [(0, 0), (0, 32 - length)])
            valid = np.arange(32)[None, :] < length
            return np.asarray(forward(params, config, padded, valid))[:, :length]

        return run

    wanted = expected(logits(original), logits(edited), rows)
    # Logits of the same kernels, but in batches of another shape (1e-6 of some 10 nats), and the
    # rounding of float32 in the log-softmax.
    check(found, wanted, loss=2e-6, kl=1e-5)
    assert found.kl > 0.05


def test_agrees_with_float64_from_transformers(pair, found, rows):
    torch = pytest.importorskip("torch")
    from tests.model.test_transformers import reference

    def logits(path):
        model = reference(path)

        def run(tokens):
            with torch.no_grad():
                return model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()

        return run

    wanted = expected(logits(pair[0]), logits(pair[1]), rows)
    # The project's bound on logits is 1e-4 on single ones; means come closer.
    check(found, wanted, loss=1e-5, kl=1e-4)


def test_a_model_does_not_differ_from_itself(loaded, rows):
    original, _, config = loaded
    measured = Divergences(original, config, rows)
    # The same leaves, and equal ones that are put on the device again.
    for same in (original, jax.tree.map(np.copy, original)):
        found = measured.measure(same)
        assert (found.kl, found.agreement, found.loss) == (0.0, 100.0, found.original_loss)


def test_shared_leaves_change_nothing(loaded, rows):
    original, edited, config = loaded
    partly = {**original, "layers": {**original["layers"], "mlp": edited["layers"]["mlp"]}}
    measured = Divergences(original, config, rows)
    found = measured.measure(partly)
    assert found == measured.measure(jax.tree.map(np.copy, partly))
    assert found.kl > 0


def test_a_row_alone_is_the_row_in_a_batch(loaded):
    original, edited, config = loaded
    rows = random_rows((7, 21, 30), seed=3)
    sums = np.zeros(4)
    for tokens, weights in zip(rows.tokens, rows.weights):
        one = Divergences(original, config, Rows((tokens,), (weights,))).measure(edited)
        sums += np.array(one[:4]) * one.tokens
    together = Divergences(original, config, rows).measure(edited)
    # Matrix products of other shapes add in another order.
    np.testing.assert_allclose(sums / rows.targets, together[:4], rtol=1e-6)


def test_batches_and_devices_do_not_matter(loaded, found, rows):
    original, edited, config = loaded
    small = Divergences(original, config, rows, batch_bytes=1)
    np.testing.assert_allclose(small.measure(edited), found, rtol=1e-6)
    # The mesh has explicit axes; trees that were built on one come with them.
    mesh = layer_mesh(2)
    spread = Divergences(original, config, rows, mesh=mesh)
    np.testing.assert_allclose(spread.measure(edited), found, rtol=1e-6)
    built = construct(edited, original, "eq10", modules="o_proj|up_proj", mesh=mesh)
    numbers = jax.tree.map(np.asarray, built)
    wanted = Divergences(original, config, rows).measure(numbers)
    for measured in (spread, Divergences(original, config, rows)):
        np.testing.assert_allclose(measured.measure(built), wanted, rtol=1e-6)


def test_batches_are_few_and_full():
    config: Any = type("Config", (), {"vocab_size": 1000})
    rows = random_rows([*range(30, 34)] * 10 + [300] * 3 + [513, 1100])
    row_bytes = 8 * 32 * 1000
    batches = list(divergence._batches(rows, config, 2, 13 * row_bytes))
    # 40 rows of up to 32 inputs, 13 of which fit: 4 batches of 10, not 13, 13, 13 and 1; the rest
    # has one row per device.
    assert [tokens.shape for tokens, _, _ in batches] == [(10, 33)] * 4 + [
        (2, 321), (2, 321), (2, 513), (2, 1153),
    ]  # fmt: skip
    assert sum(counted.sum() for *_, counted in batches) == rows.targets
    assert sum((lengths > 0).sum() for _, lengths, _ in batches) == len(rows.tokens)


def test_lengths_are_rounded_up_by_little():
    for length in (*range(1, 600), 1000, 4095, 4096, 4097, 100_000):
        rounded = divergence._rounded(length)
        assert length <= rounded < length + max(32, length / 8), length
        assert rounded % 32 == 0, length
        assert divergence._rounded(rounded) == rounded, length


def test_stored_dtype_does_not_matter(pair, loaded, found, rows):
    _, edited, config = loaded
    stored = [load(path, None)[0] for path in pair]
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {np.dtype(ml_dtypes.bfloat16)}
    assert Divergences(stored[0], config, rows).measure(stored[1]) == found
    double = jax.tree.map(lambda leaf: leaf.astype(np.float64), edited)
    assert Divergences(stored[0], config, rows).measure(double) == found


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_said(value, loaded, rows):
    original, _, config = loaded
    measured = Divergences(original, config, rows)
    broken = jax.tree.map(np.array, original)
    broken["layers"]["mlp"]["down_proj"]["kernel"][1, 3, 2] = value
    found = measured.measure(broken)
    assert np.isnan([found.loss, found.kl, found.agreement]).all()
    assert found.original_loss == measured.measure(original).loss
    found = Divergences(broken, config, rows).measure(original)
    assert np.isnan([found.original_loss, found.kl, found.agreement]).all()
    assert found.loss == measured.measure(original).loss


def test_only_tokens_of_the_text_are_looked_up(loaded):
    """A NaN embedding of any other token does not spread from padding and filling."""
    original, edited, config = loaded
    rows = Rows((np.arange(5, 15, dtype=np.int32),), (np.ones(9, np.float32),))
    broken = jax.tree.map(np.array, edited)
    broken["embed_tokens"]["embedding"][:5] = np.nan
    found = Divergences(original, config, rows).measure(broken)
    assert found == Divergences(original, config, rows).measure(edited)


def test_each_length_is_traced_once(pair, loaded):
    predict: Any = divergence._predict
    original, edited, config = loaded
    rows = random_rows((20, 25, 31, 50, 60, 61), seed=1)
    before = traces(predict)
    measured = Divergences(original, config, rows, batch_bytes=2 * 8 * 64 * 128)
    for tree in (original, edited, load(pair[1], None)[0]):
        measured.measure(tree)
    # Whatever the dtypes.
    assert traces(predict) - before <= 2
    Divergences(edited, config, rows, batch_bytes=2 * 8 * 64 * 128).measure(original)
    assert traces(predict) - before <= 2


def test_what_the_original_predicts_is_kept_where_it_fits(loaded, rows):
    original, edited, config = loaded
    kept = Divergences(original, config, rows)
    first = kept.measure(edited)
    assert len(kept._predictions) == len(kept._batches) == 2
    assert kept.measure(edited) == first
    # Two batches alike, which together would take more than one may.
    lengths = (64, 64)
    tight = Divergences(original, config, random_rows(lengths), batch_bytes=8 * 64 * 128)
    assert len(tight._batches) == 2
    tight.measure(edited)
    # 4 * 2 * 64 * 128 bytes are just enough.
    assert len(tight._predictions) == 2
    tighter = Divergences(original, config, random_rows(lengths), batch_bytes=8 * 64 * 128 - 1)
    assert tighter.measure(edited) == tight.measure(edited)
    assert not tighter._predictions


def test_production_types(loaded, found, rows):
    original, edited, config = loaded
    double = jax.tree.map(lambda leaf: leaf.astype(np.float64), edited)
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for tree in (edited, double):
            assert Divergences(original, config, rows).measure(tree) == found


def test_misfits_are_refused(loaded, rows):
    original, _, config = loaded
    measured = Divergences(original, config, rows)
    wrong = {**original, "norm": {"scale": np.ones(3, np.float32)}}
    with pytest.raises(ValueError, match=r"norm.*scale.*\(3,\).*\(64,\)"):
        measured.measure(wrong)
    with pytest.raises(ValueError):
        measured.measure({k: v for k, v in original.items() if k != "norm"})
    with pytest.raises(ValueError, match="no token counts"):
        Divergences(original, config, Rows((), ()))
