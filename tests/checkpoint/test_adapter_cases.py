"""Adapters as trainers leave them (../shared/cases/case_14_adapters.py): read and run."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from svdjax.checkpoint import (
    MergedCheckpoint,
    load_params,
    model_config,
    open_checkpoint,
    plan_pair,
)
from svdjax.errors import InputError

# Matrices with factors, tensors that are replaced, and what a note says.
EXPECTED: dict[str, tuple[int, int, str]] = {
    "plain": (4, 0, ""),
    "zero_b": (4, 0, ""),
    "rslora_patterns": (4, 0, ""),
    "lm_head_target": (5, 0, ""),
    "lm_head_target_saved": (5, 1, ""),
    "embedding_lora": (5, 1, ""),
    "auto_saved_embeddings": (4, 2, ""),
    "resized": (4, 2, "the vocabulary is the adapter's: 98 tokens, 96 in the base"),
    "saved_on_tied": (4, 2, "the output head is no longer the embedding"),
    "tied_lm_head_base_layer": (5, 2, "the output head is no longer the embedding"),
    "all_linear": (4, 0, "10 layers that target_modules of"),
    "unsloth_regex": (4, 0, ""),
    "default_in_names": (4, 0, ""),
    "tokens": (4, 0, "2 trained tokens take the place of the base's"),
    "magnitude": (4, 0, "is a DoRA adapter"),
    "quantised_base_name": (4, 0, "names 'unsloth/llama-3-8b-bnb-4bit' as its base, not "),
    "no_base_name": (4, 0, ""),
    "frozen_layers": (2, 0, ""),
    "score_head": (4, 0, "nothing of that name: base_model.model.score.weight"),
}


@pytest.fixture(scope="module")
def cases(shared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("case_14")
    script = shared / "cases" / "case_14_adapters.py"
    subprocess.run([sys.executable, script, root], check=True, cwd=script.parent)
    return root


@pytest.mark.parametrize("case", EXPECTED)
def test_is_read_and_run(cases: pathlib.Path, case: str) -> None:
    base = cases / ("base_tied" if "tied" in case else "base")
    found = open_checkpoint(cases / case, lambda: open_checkpoint(base))
    assert isinstance(found, MergedCheckpoint)
    factors, replaced, words = EXPECTED[case]
    plan = plan_pair(found.base, found)
    assert f": {factors} matrices changed, {replaced} tensors replaced" in plan.notes[0]
    assert any(words in note for note in plan.notes)
    assert len(plan.projections) == 7
    load_params(found, model_config(found))


def test_every_case_is_here(cases: pathlib.Path) -> None:
    names = {path.name for path in cases.iterdir()} - {"base", "base_tied", "bin_only"}
    assert names == EXPECTED.keys()
    with pytest.raises(InputError, match="a pickle, which is never opened"):
        open_checkpoint(cases / "bin_only")
