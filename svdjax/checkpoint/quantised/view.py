"""A quantised checkpoint as the floats that its matrices stand for.

They are worked out by the thread that reads, in the dtype that the reference implementation gives:
0.05 to 0.15 s for a matrix of 2048 x 7168, a hundredth of what comparing it takes
(docs/quantised.md). Programs, memory and caches of the devices know nothing of formats.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from svdjax.checkpoint.formats import FLOATS, FP8, Precision
from svdjax.checkpoint.quantised.matching import NAMES, Match, match_names
from svdjax.checkpoint.quantised.packed import BF16, PackedTensor, Parts
from svdjax.checkpoint.quantised.settings import KEYS, declared_in, method_of, read_settings
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.safetensors_file import Shard, TensorSpec
from svdjax.checkpoint.writer import with_dtype
from svdjax.errors import InputError


class DequantisedCheckpoint(Checkpoint):
    """Checkpoint whose quantised matrices are read as floats; all else is that of `source`.

    A matrix counts as lying where its codes lie. Parts of matrices, and scales of activations, are
    no tensors of it.

    Attributes:
        physical: Checkpoint as it lies on disk.
    """

    def __init__(self, physical: Checkpoint, match: Match):
        """Finds the quantised matrices, by name; their headers are looked at when asked for.

        Raises:
            InputError: config.json says something of them that makes no sense.
        """
        self.physical = physical
        self.source, self.path, self.files = physical.source, physical.path, physical.files
        self.described, self.listing = physical.described, physical.listing
        self.settings = read_settings(physical.config, str(physical.home / "config.json"))
        # That of a copy.
        self.config = with_dtype(without_declaration(physical.config), BF16.name)
        self._match = match
        self._packed: dict[str, PackedTensor] = {}
        hidden = {part for _, parts in match.packed.values() for part in parts.values()}
        hidden |= set(match.aside)
        self.names = tuple(sorted((set(physical.names) - hidden) | match.packed.keys()))
        self._present = frozenset(self.names)
        self.notes = (*physical.notes, *self._notes())

    @property
    def home(self) -> pathlib.Path:
        """Directory with config.json."""
        return self.physical.home

    @property
    def tokenizer(self) -> pathlib.Path:
        """Directory with the tokenizer, where there is one."""
        return self.physical.tokenizer

    @property
    def conflicts(self) -> Mapping[str, str]:
        """Why a tensor cannot be read, by name: two files hold other values of it or of a part."""
        owners = {p: name for name, (_, ps) in self._match.packed.items() for p in ps.values()}
        return {owners.get(name, name): why for name, why in self.physical.conflicts.items()}

    def close(self) -> None:
        """Frees what is in memory."""
        self.physical.close()

    def check_unchanged(self) -> None:
        """Raises `InputError` if a file that was read has changed since."""
        self.physical.check_unchanged()

    def __contains__(self, name: object) -> bool:
        return name in self._present

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of a tensor as it is read, and the place of its codes.

        Raises:
            InputError: There is no such tensor, its file is broken, or its parts do not fit.
        """
        if name not in self._match.packed:
            self._check_name(name)
            spec = self.physical.spec(name)
            if spec.dtype in FP8:
                raise InputError(
                    f"{self.physical.where(name)}: tensor {name} is {spec.dtype} without a scale "
                    f"beside it; expected {name}_scale_inv or {name}_scale"
                )
            return spec
        packed = self._tensor(name)
        place = packed.parts.spec(packed.main)
        return TensorSpec(packed.shape, packed.dtype, place.file, place.offsets)

    def where(self, name: str) -> pathlib.Path:
        """File of a tensor, of the codes where it is quantised."""
        if name not in self._match.packed:
            return self.physical.where(name)
        packed = self._tensor(name)
        return self.physical.where(packed.parts.names[packed.main])

    def stored(self, name: str) -> bool:
        """Whether a tensor's bytes are those in its file."""
        return name in self._present and name not in self._match.packed

    def packed(self, name: str) -> str:
        """See `Checkpoint.packed`."""
        return self._tensor(name).label if name in self._match.packed else ""

    def precision(self, name: str, rows: tuple[int, int] | None = None) -> Precision:
        """See `Checkpoint.precision`."""
        own = super().precision(name)
        if name not in self._match.packed:
            return own
        packed = self._tensor(name)
        codes = packed.precision(*packed.range(rows))
        return Precision(max(own.eps, codes.eps), codes.step)

    def header(self, file: str) -> Shard:
        """One of `files`, opened, with the tensors as they lie there."""
        return self.physical.header(file)

    def layout(self, file: str) -> dict[str, TensorSpec]:
        """Tensors of a file as a copy has them: in bf16 where they are quantised."""
        return self._layouts[file]

    @functools.cached_property
    def _layouts(self) -> dict[str, dict[str, TensorSpec]]:
        specs = sorted(((self.spec(name), name) for name in self.names), key=_place)
        layouts: dict[str, dict[str, TensorSpec]] = {file: {} for file in self.files}
        for spec, name in specs:
            quantised = name in self._match.packed
            layouts[spec.file][name] = dataclasses.replace(spec, dtype=BF16) if quantised else spec
        return layouts

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """See `Checkpoint.read`; the values are the same whichever rows are read."""
        if name not in self._match.packed:
            self._check_name(name)
            return self.physical.read(name, rows)
        return self._tensor(name).read(rows)

    def _check_name(self, name: str) -> None:
        if name not in self._present:
            raise InputError(f"{self.listing}: has no tensor {name}")

    def _tensor(self, name: str) -> PackedTensor:
        if name not in self._packed:
            layout, parts = self._match.packed[name]
            self._packed[name] = layout.make(Parts(self.physical, name, parts), self.settings)
        return self._packed[name]

    def _notes(self) -> list[str]:
        """Notes for readers of the results."""
        count, first = len(self._match.packed), min(self._match.packed)
        tensor = self._tensor(first)
        notes = [
            f"{self.path} is quantised: {count} matrices are read as {tensor.dtype} (the first, "
            f"{first}, is {tensor.label}); what is smaller than its steps cannot be seen"
        ]
        if aside := self._match.aside:
            notes.append(
                f"{self.path}: {len(aside)} scales of activations such as {aside[0]} are not "
                "looked at"
            )
        return notes


def dequantised(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with its quantised matrices as floats where it has any.

    Tensors decide: what config.json declares over plain floats is noted, and dropped from what is
    written.

    Raises:
        InputError: It is quantised in a format that is not read, or is incomplete.
    """
    declared = declared_in(checkpoint.config)
    method = method_of(declared)
    match = match_names(checkpoint.names, str(checkpoint.listing), method)
    if match.packed:
        return DequantisedCheckpoint(checkpoint, match)
    if declared is None:
        return checkpoint
    method = method or "a method without a name"
    where = checkpoint.home / "config.json"
    for name in checkpoint.names:
        spec = checkpoint.spec(name)
        if len(spec.shape) > 1 and spec.dtype not in FLOATS:
            raise InputError(
                f"{where}: quantization_config says {method}, and tensor {name} is {spec.dtype}; "
                f"expected {NAMES}, or the bf16 checkpoint that this one was made from"
            )
    checkpoint.config = without_declaration(checkpoint.config)
    checkpoint.notes = (
        *checkpoint.notes,
        f"{where}: quantization_config says {method}, and the tensors are plain floats: they are "
        "read as they are",
    )
    return checkpoint


def _place(item: tuple[TensorSpec, str]) -> tuple[int, int]:
    return item[0].offsets


def without_declaration(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json without what it says of quantisation."""
    kept = {key: value for key, value in config.items() if key not in KEYS}
    inner = kept.get("text_config")
    if isinstance(inner, Mapping):
        kept["text_config"] = {key: value for key, value in inner.items() if key not in KEYS}
    return kept
