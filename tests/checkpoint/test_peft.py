"""Adapters that PEFT itself trains and saves, merged as they are read, against PEFT."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.model import forward
from tests.checkpoint.test_adapter import causal_model, import_peft
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = ["q_proj", "down_proj"]
TOKENS = np.arange(3, 123, 5)[None, :] % 128
ROWS = 133  # of a vocabulary that was resized, from 128


def trained(
    base: pathlib.Path,
    directory: pathlib.Path,
    dtype: str = "float32",
    rows: int = 0,
    **config: Any,
) -> Any:
    """Saves an adapter as PEFT does after training, and returns PEFT's model of it, loaded."""
    peft, torch = import_peft(), pytest.importorskip("torch")

    def model() -> Any:
        loaded = causal_model(base).to(getattr(torch, dtype))
        if rows:
            torch.manual_seed(5)
            loaded.resize_token_embeddings(rows, mean_resizing=False)
        return loaded

    fields = {"r": 4, "lora_alpha": 7, "target_modules": LAYERS, "task_type": "CAUSAL_LM"}
    first = model()
    first.name_or_path = str(base)
    adapted = peft.get_peft_model(first, peft.LoraConfig(**(fields | config)))
    draw = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.data += 0.3 * noise.to(parameter.dtype)
    adapted.save_pretrained(directory)
    return peft.PeftModel.from_pretrained(model(), directory).eval()


CASES: dict[str, dict[str, Any]] = {
    "layers": {},
    "head": {"target_modules": [*LAYERS, "lm_head"]},
    "embedding": {"target_modules": [*LAYERS, "embed_tokens"]},
    "both": {"target_modules": [*LAYERS, "lm_head", "embed_tokens"]},
    "dora": {"use_dora": True},
    "dora_ends": {"target_modules": [*LAYERS, "lm_head", "embed_tokens"], "use_dora": True},
    "saved_both": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "saved_embedding": {"modules_to_save": ["embed_tokens"]},
    "saved_head": {"modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": [5, 1, 127]},
    "tokens_apart": {"trainable_token_indices": {"embed_tokens": [5, 1], "lm_head": [7]}},
    "resized": {"rows": ROWS},
    "resized_embedding": {"rows": ROWS, "target_modules": [*LAYERS, "embed_tokens"]},
    "resized_both": {"rows": ROWS, "target_modules": [*LAYERS, "embed_tokens", "lm_head"]},
    "resized_saved": {"rows": ROWS, "modules_to_save": ["lm_head", "embed_tokens"]},
    "resized_tokens": {"rows": ROWS, "trainable_token_indices": [128, 130]},
    "tied_saved": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "tied_embedding": {
        "target_modules": [*LAYERS, "embed_tokens"],
        "ensure_weight_tying": True,
    },
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "apart": tiny.make_checkpoint(root / "apart", "llama", dtype="float32", seed=3),
        "tied": tiny.make_checkpoint(root / "tied", "qwen2", dtype="float32", seed=3),
    }


@pytest.mark.parametrize(
    ("base", "case"),
    # PEFT does not save the rows that the head won where only the embedding has factors.
    [(b, c) for b in ("apart", "tied") for c in CASES if (b, c) != ("apart", "resized_embedding")],
)
def test_runs_as_peft_runs_it(
    tmp_path: pathlib.Path, bases: dict[str, pathlib.Path], base: str, case: str
) -> None:
    torch = pytest.importorskip("torch")
    theirs = trained(bases[base], tmp_path / "adapter", **CASES[case])
    with torch.no_grad():
        wanted = theirs(torch.tensor(TOKENS)).logits.numpy()
    with open_checkpoint(tmp_path / "adapter") as checkpoint:
        config = model_config(checkpoint)
        found = np.asarray(forward(load_params(checkpoint, config), config, TOKENS))
    assert found.shape == wanted.shape
    # As for the decoder itself: float32 programs that sum in different orders. Reaches 1e-5.
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("case", ["both", "dora", "dora_ends", "tokens", "saved_both"])
def test_merges_as_peft_does(tmp_path: pathlib.Path, dtype: str, case: str) -> None:
    base = tiny.make_checkpoint(tmp_path / "base", "llama", dtype=dtype, seed=3)
    theirs = trained(base, tmp_path / "adapter", dtype, **CASES[case]).merge_and_unload()
    theirs.save_pretrained(tmp_path / "merged")
    found, wanted = open_checkpoint(tmp_path / "adapter"), tiny.read_tensors(tmp_path / "merged")
    assert set(found.names) == wanted.keys()
    integer = np.int32 if dtype == "float32" else np.int16
    different = 0
    for name in found.names:
        ours, expected = found.read(name), wanted[name]
        assert ours.dtype == expected.dtype
        gaps = np.abs(ours.view(integer).astype(np.int64) - expected.view(integer).astype(np.int64))
        if dtype == "float32":
            # K + 2 roundings of product and sum, and five of DoRA's length and quotient.
            size = np.abs(expected).max() * 11 * 2.0**-24
            assert np.abs(ours - expected).max() <= size, name
        else:
            # The order of the sums in a float32 product is the library's; rounding hides most.
            assert gaps.max() <= 1, name
        different += np.count_nonzero(gaps)
    if dtype != "float32":
        assert different <= 1e-3 * sum(value.size for value in wanted.values())
