"""Live comparison with transformers (torch, float32, eager attention), where torch is installed.

For the tolerance see test_golden.py.
"""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from svdjax.checkpoint import model_config
from svdjax.model import forward
from tests.model.loading import Loaded, load, write
from tests.model.test_golden import TOLERANCE
from tests.model.variants import VARIANTS
from tests.support import tiny

torch = pytest.importorskip("torch")


def reference(directory: pathlib.Path) -> Any:
    """transformers' model of a directory."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        # What transformers and torch warn of among themselves is not ours to mend.
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(
            directory, attn_implementation="eager", dtype=torch.float32
        )
    return model.eval()


def reference_logits(
    directory: pathlib.Path, tokens: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """transformers' logits [B, T, V]."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    options = {}
    if valid is not None:
        options["attention_mask"] = torch.from_numpy(valid.astype(np.int64))
        positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
        options["position_ids"] = torch.from_numpy(positions.astype(np.int64))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reference(directory)(ids, **options).logits.numpy()


@pytest.mark.parametrize("style", ["v4", "v5"])
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_those_of_transformers(name: str, style: str, tmp_path: pathlib.Path) -> None:
    shards = 3 if style == "v5" else 1
    directory = write(name, tmp_path, style=style, seed=7, dtype="float32", shards=shards)
    config, params = load(directory)
    # One sequence: with the programs of test_golden.py. Two are in the test below.
    tokens = VARIANTS[name].tokens()
    expected = reference_logits(directory, tokens)
    assert expected.std() >= 1.0
    found = np.asarray(forward(params, config, tokens))
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", ["qwen2_windows", "gemma2", "mistral", "gemma3_text"])
def test_left_padding_equals_that_of_transformers(
    name: str, variant: Callable[[str], Loaded]
) -> None:
    model = variant(name)
    tokens = VARIANTS[name].tokens(batch=2)
    valid = np.ones(tokens.shape, bool)
    valid[1, :9] = False
    expected = reference_logits(model.directory, tokens, valid)
    found = np.asarray(forward(model.params, model.config, tokens, valid))
    assert np.abs(found - expected)[valid].max() <= TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_configs_saved_by_transformers_read_the_same(name: str, tmp_path: pathlib.Path) -> None:
    from transformers import AutoConfig

    directory = write(name, tmp_path)
    AutoConfig.from_pretrained(directory).save_pretrained(tmp_path / "saved")
    assert model_config(tmp_path / "saved") == model_config(directory)


def test_attention_is_far_from_uniform(variant: Callable[[str], Loaded]) -> None:
    for name in tiny.FAMILIES:
        model = variant(name)
        ids = torch.from_numpy(model.tokens.astype(np.int64))
        with torch.no_grad():
            weights = reference(model.directory)(ids, output_attentions=True).attentions
        # [L, N, T], over queries that see at least 16 keys where no window is in the way
        last = torch.stack([layer[0, :, 16:] for layer in weights])
        seen = (last > 0).sum(-1).clamp_min(2).float()
        entropy = -(last * last.clamp_min(1e-30).log()).sum(-1)
        assert (entropy / seen.log()).mean() < 0.8, name


def test_stories260k(shared: pathlib.Path) -> None:
    directory = shared / "checkpoints" / "stories260k"
    config, params = load(directory)
    tokens = np.random.default_rng(0).integers(3, 512, (2, 96)).astype(np.int32)
    found = np.asarray(forward(params, config, tokens))
    assert np.abs(found - reference_logits(directory, tokens)).max() <= TOLERANCE
