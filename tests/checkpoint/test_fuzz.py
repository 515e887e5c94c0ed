"""Damaged files: whatever the damage, an `InputError` in one line or a success, nothing else."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from svdjax.checkpoint import (
    input_digest,
    load_params,
    model_config,
    open_checkpoint,
    plan_pair,
    read_stack,
)
from svdjax.errors import InputError
from tests.support import tiny

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 24,
}
Damage = Callable[[bytearray, np.random.Generator], bytearray]


def truncated(content: bytearray, draw: np.random.Generator) -> bytearray:
    return content[: draw.integers(0, len(content))]


def flipped(content: bytearray, draw: np.random.Generator) -> bytearray:
    for _ in range(draw.integers(1, 4)):
        content[draw.integers(0, len(content))] ^= 1 << draw.integers(0, 8)
    return content


def scribbled(content: bytearray, draw: np.random.Generator) -> bytearray:
    """Digits, brackets and quotes where the structure is: at the front."""
    for _ in range(draw.integers(1, 3)):
        where = draw.integers(0, min(len(content), 3000))
        content[where] = draw.choice(list(b'0123456789-.,:[]{}"\\eE\x00\xffn'))
    return content


def cut_out(content: bytearray, draw: np.random.Generator) -> bytearray:
    start = draw.integers(0, len(content))
    del content[start : start + draw.integers(1, 40)]
    return content


def doubled(content: bytearray, draw: np.random.Generator) -> bytearray:
    start = draw.integers(0, len(content))
    return content[:start] + content[max(0, start - draw.integers(1, 60)) :]


DAMAGES: tuple[Damage, ...] = (truncated, flipped, scribbled, cut_out, doubled)


def use(base: pathlib.Path, damaged: pathlib.Path) -> None:
    """Everything that a command does with a checkpoint."""
    with open_checkpoint(base) as one, open_checkpoint(damaged) as two:
        plan = plan_pair(one, two)
        input_digest(two)
        for each in plan.projections:
            for checkpoint in (one, two):
                read_stack(checkpoint, each, 0, len(each.tensors))
        if plan.family != "unknown":
            load_params(two, model_config(two.config), None)


def said(base: pathlib.Path, damaged: pathlib.Path) -> str:
    """The line that the damage is refused with; empty if it is harmless."""
    try:
        use(base, damaged)
    except InputError as error:
        text = str(error)
    else:
        return ""
    assert text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    ("shards", "file"),
    [
        (1, "model.safetensors"),
        (1, "config.json"),
        (2, "model.safetensors.index.json"),
        (2, "model-00002-of-00002.safetensors"),
    ],
)
def test_damage_is_refused_or_harmless(tmp_path, shards, file, damage):
    base = tiny.make_checkpoint(tmp_path / "base", "qwen2", shards=shards, **SMALL)
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    whole = (base / file).read_bytes()
    draw = np.random.default_rng([shards, len(file), DAMAGES.index(damage)])
    refused = 0
    for _ in range(40):
        content = bytes(damage(bytearray(whole), draw))
        (damaged / file).write_bytes(content)
        text = said(base, damaged)
        refused += bool(text)
        assert not text or str(damaged) in text, content[:200]
    # Damage to the data itself is often just another number.
    assert refused > 0 or (damage is flipped and file.endswith("s")), "the damage did nothing"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_any_value_in_any_field_of_the_config(tmp_path, family):
    base = tiny.make_checkpoint(tmp_path / "base", family, style="v5")
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    raw = json.loads((base / "config.json").read_text())
    fields = list(raw)
    if family not in ("llama", "phi3"):  # what it shares with llama has been tried there
        common = tiny.tiny_config("llama", style="v5")
        fields = [name for name in raw if name not in common or name == "rope_parameters"]
    for field in fields:
        for value in (None, 0, -1, 2.5, 10**30, "", "x", [], [1], {}, {"a": 1}, True):
            (damaged / "config.json").write_text(json.dumps(raw | {field: value}))
            text = said(base, damaged)
            assert not text or str(damaged) in text or "config.json" in text, (field, value)
