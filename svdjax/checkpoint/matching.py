"""A checkpoint against its family's name table: every tensor accounted for, every fault told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from svdjax.checkpoint.config import ModelConfig
from svdjax.checkpoint.families import FAMILIES
from svdjax.checkpoint.files import listed
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError

_BUFFERS = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class Fault(NamedTuple):
    """What is wrong with a tensor: `text` has a `{name}` where the tensor's name belongs."""

    name: str
    text: str


def match_family(checkpoint: Checkpoint, config: ModelConfig) -> tuple[list[Fault], dict[str, str]]:
    """Compare names, shapes and dtypes of all tensors with the family's table.

    Returns:
        All faults, and the tensors that may be ignored with the reasons.
    """
    faults: list[Fault] = []
    left_out: dict[str, str] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for weight in FAMILIES[config.family].present(config):
        expected |= dict.fromkeys(weight.tensors(config), weight.stored_shape(config))
    present = set(checkpoint.names)
    for name, shape in expected.items():
        if name not in present:
            text = f"tensor {{name}} is missing from {checkpoint.listing}, expected shape {shape}"
            faults.append(Fault(name, text))
            continue
        spec = checkpoint.spec(name)
        where = f"in {checkpoint.where(name)}"
        if spec.shape != shape:
            text = (
                f"tensor {{name}} {where} has shape {spec.shape}, expected {shape} by config.json"
            )
            faults.append(Fault(name, text))
        elif spec.dtype not in FLOATS:
            text = f"tensor {{name}} {where} is {spec.dtype}, expected bf16, f16 or f32"
            faults.append(Fault(name, text))
    for name in checkpoint.names:
        if name in expected:
            continue
        spec = checkpoint.spec(name)
        if _BUFFERS.search(name):
            left_out[name] = "buffer of the rotary embedding, follows from config.json"
        elif name == "lm_head.weight" and config.tie_word_embeddings:
            left_out[name] = "output head, tied to the embedding by config.json"
        else:
            text = (
                f"tensor {{name}} {spec.shape} in {checkpoint.where(name)} is not part of a "
                f"{config.family} model with this config.json"
            )
            faults.append(Fault(name, text))
    return faults, left_out


def raise_faults(what: str, faults: Iterable[Fault]) -> None:
    """Raise all faults as one `InputError`, if there are any."""
    texts = grouped(faults)
    if texts:
        raise InputError(f"{what}: {listed(texts)}")


def grouped(faults: Iterable[Fault]) -> list[str]:
    """Texts of faults, with one text for those that differ in the number of the layer only.

    `model.layers.{0..27}.mlp.up_proj.weight` stands for 28 tensors. The file is then that of the
    first one, as the shards differ from layer to layer.
    """
    groups: dict[tuple[str, str], list[tuple[int, Fault]]] = {}
    for fault in faults:
        number = _NUMBER.search(fault.name)
        layer = int(number[0]) if number else -1
        # The name of a shard is no part of the likeness, what was found and expected is.
        alike = re.sub(r"\S+\.safetensors(?=\s)", "", fault.text)
        key = (_NUMBER.sub("{}", fault.name, count=1), alike)
        groups.setdefault(key, []).append((layer, fault))
    texts = []
    for (template, _), members in groups.items():
        first = members[0][1]
        if len(members) == 1:
            name = first.name
        else:
            name = template.replace("{}", "{" + ranges(layer for layer, _ in members) + "}", 1)
        texts.append(first.text.replace("{name}", name))
    return texts


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in short: 0..3,5."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}..{b}" if b > a else str(a) for a, b in runs)
