"""The shipped models on their shipped texts: confident models, small losses, small divergences."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np
import pytest

from svdjax import reference
from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.engine.devices import layer_mesh
from svdjax.text.divergence import Divergences
from svdjax.text.texts import Rows, read_texts, tokenise
from tests.support import tiny
from tests.text.expected import expected


def load(path):
    with open_checkpoint(path) as checkpoint:
        return load_params(checkpoint, model_config(path), None)


def text_of(name: str, limit: int = 0) -> Rows:
    path = reference.path(name)
    return tokenise(read_texts(reference.text_path(name), limit), path, model_config(path), name)


# As many rows as the other tests here look at, and few, as they are of many lengths.
@pytest.mark.parametrize(
    ("name", "tokens", "rows"), [("instruct", 2075, 9), ("reasoning", 11387, 6)]
)
def test_they_know_their_texts(name, tokens, rows):
    path = reference.path(name)
    assert text_of(name).targets == tokens
    rows = text_of(name, rows)
    found = Divergences(load(path), model_config(path), rows).measure(load(reference.path("base")))
    # Right answers in the model's own format, which base has never seen. The README of the family
    # has 0.001 and 0.002 on other such answers.
    assert found.original_loss < 0.005
    assert found.loss > 1.0
    assert found.kl > 1.0


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
def test_small_changes_against_transformers_in_float64(noise, tmp_path):
    """Means of 3e-4 nats (loss) and 1e-8 to 1e-6 (KL), which float32 easily loses."""
    torch = pytest.importorskip("torch")
    from tests.model.test_transformers import reference as in_torch

    path = reference.path("instruct")
    wide = write_float32(path, tmp_path / "wide")
    edited = tiny.perturb(wide, tmp_path / "edited", noise=noise)
    rows = text_of("instruct", 9)

    @functools.cache
    def model(side):
        return in_torch(side).double()

    def logits(side):
        def run(tokens):
            with torch.no_grad():
                return model(side)(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()

        return run

    wanted = expected(logits(wide), logits(edited), rows)
    found = Divergences(load(path), model_config(path), rows).measure(load(edited))
    assert found.tokens == wanted.tokens
    # Logits in float32 are some 1e-6 (of 20) off, mean losses and the small d of KL accordingly.
    assert found.original_loss == pytest.approx(wanted.original_loss, rel=1e-5)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert found.kl == pytest.approx(wanted.kl, rel=1e-3)
    assert found.agreement == wanted.agreement


def write_float32(source, target):
    tensors = {k: v.astype(np.float32) for k, v in tiny.read_tensors(source).items()}
    config = json.loads((source / "config.json").read_text("utf-8"))
    return tiny.write_checkpoint(target, config | {"torch_dtype": "float32"}, tensors)


def test_one_device_or_two():
    path, rows = reference.path("instruct"), text_of("instruct", 9)
    original = jax.tree.map(lambda leaf: leaf.astype(np.float32), load(path))
    edited = jax.tree.map(lambda leaf: np.float32(1.02) * leaf, original)
    config = model_config(path)
    # One is the default, which the tests above have compiled.
    one, two = (
        Divergences(original, config, rows, mesh=mesh).measure(edited)
        for mesh in (None, layer_mesh(2))
    )
    # Logits are summed up in another order, 1e-6 of them. Losses of 1e-4 nats feel that a little,
    # and KL, here 3e-5 nats, as twice the relative error of differences d of some 1e-2.
    assert one.loss == pytest.approx(two.loss, rel=2e-5)
    assert one.original_loss == pytest.approx(two.original_loss, rel=2e-5)
    assert one.kl == pytest.approx(two.kl, rel=2e-4)
    assert (one.agreement, one.tokens) == (two.agreement, two.tokens)
