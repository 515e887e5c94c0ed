"""Faults of a checkpoint against its family's name table; every tensor is accounted for."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from svdjax.checkpoint.config import ModelConfig
from svdjax.checkpoint.families import FAMILIES
from svdjax.checkpoint.files import INDEX, SINGLE, listed
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError

BUFFERS = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class Fault(NamedTuple):
    """Fault of a tensor.

    Attributes:
        name: Name of the tensor; empty for a fault of the checkpoint.
        text: Message, with a `{name}` where the tensor's name belongs.
    """

    name: str
    text: str


def match_family(
    checkpoint: Checkpoint, config: ModelConfig, *, strict: bool = True
) -> tuple[list[Fault], dict[str, str]]:
    """Faults of names, shapes and dtypes of all tensors against the family's table.

    Args:
        checkpoint: The checkpoint.
        config: Its configuration.
        strict: Whether a tensor that is not in the table is a fault.

    Returns:
        All faults, and the tensors that may be ignored with the reasons.
    """
    wrong: list[Fault] = []
    missing: list[Fault] = []
    unknown: list[Fault] = []
    not_floats: dict[np.dtype, list[str]] = {}
    left_out: dict[str, str] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for weight in FAMILIES[config.family].present(config):
        expected |= dict.fromkeys(weight.tensors(config), weight.stored_shape(config))
    renamed, summary = _renamed(checkpoint, expected, config.family)
    for name, shape in expected.items():
        if name in renamed:
            continue
        if name not in checkpoint:
            text = f"tensor {{name}} is missing from {checkpoint.listing}, expected shape {shape}"
            missing.append(Fault(name, text))
            continue
        spec = checkpoint.spec(name)
        if spec.shape != shape:
            where = f"in {checkpoint.where(name)}"
            text = (
                f"tensor {{name}} {where} has shape {spec.shape}, expected {shape} by config.json"
            )
            wrong.append(Fault(name, text))
        elif spec.dtype not in FLOATS:
            not_floats.setdefault(spec.dtype, []).append(name)
    for name in checkpoint.names:
        if name in expected or name in renamed:
            continue
        spec = checkpoint.spec(name)  # every header is looked at
        if BUFFERS.search(name):
            left_out[name] = "buffer of the rotary embedding, follows from config.json"
        elif name == "lm_head.weight" and config.tie_word_embeddings:
            left_out[name] = "output head, tied to the embedding by config.json"
        elif not strict:
            left_out[name] = f"not part of a {config.family} model"
        else:
            text = (
                f"tensor {{name}} {spec.shape} in {checkpoint.where(name)} is not part of a "
                f"{config.family} model with this config.json"
            )
            unknown.append(Fault(name, text))
    for dtype, names in not_floats.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        where = checkpoint.where(names[0])
        text = f"tensor {{name}}{more} in {where} is {dtype}, expected bf16, f16 or f32"
        wrong.append(Fault(names[0], text))
    # In turns, so that a list that is cut off shows names of both sides.
    pairs = itertools.zip_longest(missing, unknown)
    faults = summary + wrong + [fault for pair in pairs for fault in pair if fault is not None]
    if faults and checkpoint.files == (SINGLE,) and os.path.lexists(checkpoint.path / INDEX):
        text = (
            f"{checkpoint.path / SINGLE} is what is read, and the shards of {INDEX} lie beside it: "
            "remove it if they are the model"
        )
        faults.insert(0, Fault("", text))
    return faults, left_out


def _renamed(
    checkpoint: Checkpoint, expected: Collection[str], family: str
) -> tuple[set[str], list[Fault]]:
    """Names on both sides that differ by one prefix only, and the fault that stands for them."""
    missing = {name for name in expected if name not in checkpoint}
    unknown = {name for name in checkpoint.names if name not in expected}
    for longer, shorter, words in (
        (unknown, missing, "have the prefix {!r}, which {} has not"),
        (missing, unknown, "lack the prefix {!r} that {} has"),
    ):
        by_prefix: dict[str, list[tuple[str, str]]] = {}
        for name in longer:
            for dot in re.finditer(r"\.", name):
                if name[dot.end() :] in shorter:
                    by_prefix.setdefault(name[: dot.end()], []).append((name, name[dot.end() :]))
        prefix, pairs = max(
            by_prefix.items(), key=lambda item: len(item[1]), default=("", list[tuple[str, str]]())
        )
        if 2 * len(pairs) > len(missing):
            first = min(pairs)
            present, absent = first if longer is unknown else first[::-1]
            text = (
                f"{len(pairs)} tensors of {checkpoint.listing} "
                f"{words.format(prefix, f'a {family} model')}: {present} is there, {absent} is "
                "expected; save the model itself, not one that wraps or is inside it, with "
                "save_pretrained(...)"
            )
            return {name for pair in pairs for name in pair}, [Fault("", text)]
    return set(), []


def raise_faults(what: str, faults: Iterable[Fault]) -> None:
    """Raises all faults as one `InputError`, if there are any."""
    texts = grouped(faults)
    if texts:
        raise InputError(f"{what}: {listed(texts)}")


def grouped(faults: Iterable[Fault]) -> list[str]:
    """Texts of faults, one for all that differ in the number of the layer only.

    `model.layers.{0..27}.mlp.up_proj.weight` stands for 28 tensors. The file is that of the first
    one, as the shards differ from layer to layer.
    """
    groups: dict[tuple[str, str], list[tuple[int, Fault]]] = {}
    for fault in faults:
        number = _NUMBER.search(fault.name)
        layer = int(number[0]) if number else -1
        text = re.sub(r"\S+\.safetensors(?=\s)", "", fault.text)
        key = (_NUMBER.sub("{}", fault.name, count=1), text)
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
    """Whole numbers as runs, such as ``0..3,5``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}..{b}" if b > a else str(a) for a, b in runs)
