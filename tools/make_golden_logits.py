"""Writes tests/model/golden: logits of transformers (torch, float32) on the tiny variants.

`python -m tools.make_golden_logits`, from the repository's root, where torch is installed. Needed
only when a variant is added or changed.
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  (an optional reference)
from transformers import AutoModelForCausalLM

from tests.model.loading import write
from tests.model.test_golden import GOLDEN, checksum
from tests.model.variants import VARIANTS


def reference_logits(directory: pathlib.Path, tokens: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] float32 of the checkpoint by transformers' own implementation."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        return model.eval()(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()


def main() -> None:
    """Write one file per variant."""
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, variant in VARIANTS.items():
            directory = write(name, pathlib.Path(folder))
            tokens = variant.tokens()
            logits = reference_logits(directory, tokens)
            np.savez_compressed(
                GOLDEN / f"{name}.npz",
                tokens=tokens,
                logits=logits,
                weights=np.uint32(checksum(directory)),
            )
            print(f"{name}: logits {logits.shape}, deviation {logits.std():.2f}")


if __name__ == "__main__":
    main()
