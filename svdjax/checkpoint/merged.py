"""A LoRA adapter and its base as one checkpoint, merged tensor by tensor as they are read."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from svdjax.checkpoint import files
from svdjax.checkpoint.adapter_match import AdapterMatch
from svdjax.checkpoint.formats import Precision
from svdjax.checkpoint.lora import CONFIG, WEIGHTS, read_lora_config
from svdjax.checkpoint.matching import raise_faults
from svdjax.checkpoint.reader import Checkpoint, Part
from svdjax.checkpoint.safetensors_file import Shard, TensorSpec
from svdjax.checkpoint.tensor_change import ChangedTensor
from svdjax.checkpoint.watched import WatchedFile
from svdjax.errors import InputError, printable

_PICKLE = "adapter_model.bin"


class MergedCheckpoint(Checkpoint):
    """Checkpoint that ``merge_and_unload`` and ``save_pretrained`` would write, merged lazily.

    Names, shapes, dtypes and files are those of the base. A changed matrix is W + scaling * (B A),
    computed in float32 (float64 where W is), and rounded once, to the dtype of the base. PEFT does
    the same: it holds the factors in float32, adds the product to the weight in place, where torch
    promotes the sum to the wider dtype and rounds it to that of the weight; saving rounds nothing.
    DoRA's magnitudes, the factors of an embedding and trained tokens are merged as PEFT does, too.
    Biases and modules that were saved whole take the place of the base's, in its dtype.

    Embedding and output head may have more or fewer rows than the base's: the vocabulary is then
    the adapter's. Where the base ties the two and the adapter changes them apart, the head becomes
    a tensor of its own, as the adapter runs. (PEFT's merge would add the factors of one to both.)
    A fault of these two, on which no comparison of layers depends, is noted; reading them refuses.

    Attributes:
        base: Checkpoint that the adapter is merged into.
        lora: Configuration of the adapter.
        changed: Names of the tensors that are not the base's, sorted.
    """

    def __init__(self, source: str | os.PathLike[str], path: pathlib.Path, base: Checkpoint):
        """Reads the adapter's header and matches it with the base.

        Args:
            source: Name of the adapter as the user gave it.
            path: Directory of the adapter.
            base: Checkpoint that it is merged into; not itself a merged one.

        Raises:
            InputError: The adapter is of a kind that is not merged here, is a pickle, or does not
                fit the base: tensors that the base or the configuration does not know, that are
                missing, or of other shapes.
        """
        self.source, self.path, self.base = os.fspath(source), path, base
        self.described = (WatchedFile(files.checked_path(path, CONFIG)),)
        self.lora = read_lora_config(path)
        if not os.path.lexists(path / WEIGHTS):
            raise InputError(_no_factors(path))
        self._adapter = Shard(files.checked_path(path, WEIGHTS))
        self._match = AdapterMatch(self.lora, self._adapter.specs, base)
        intended = f" (made for {self.lora.base!r})" if self.lora.base else ""
        raise_faults(f"adapter {path}{intended} does not fit {base.path}", self._match.faults)
        self._changed = {
            name: ChangedTensor(
                change,
                self.spec(name).shape,
                self.spec(name).dtype,
                functools.partial(self._base_rows, name),
                self._adapter.read,
            )
            for name, change in self._match.changes.items()
        }
        # Changed matrices by the tensor that a copy has them in, under another name.
        self._copied: dict[str, list[str]] = {}
        for name in {*self._changed, *self._match.broken}:
            if (place := self.place(name)) != Part(name):
                self._copied.setdefault(place.tensor, []).append(name)
        self.changed = tuple(sorted(self._changed))
        self.names, self.files = tuple(sorted({*base.names, *self.changed})), base.files
        self.config, self.listing = self._merged_config(), base.listing
        self.notes = (*base.notes, *self._notes())

    @property
    def home(self) -> pathlib.Path:
        """Directory with config.json, that of the base."""
        return self.base.home

    @property
    def tokenizer(self) -> pathlib.Path:
        """Directory with the tokenizer: the adapter's, where trainers wrote one, or the base's."""
        own = (self.path / "tokenizer_config.json").is_file()
        return self.path if own else self.base.tokenizer

    def close(self) -> None:
        """Frees what is in memory of the base."""
        self.base.close()

    def check_unchanged(self) -> None:
        """Raises `InputError` if a file of adapter or base has changed since it was first read."""
        self.base.check_unchanged()
        for file in (*self.described, self._adapter.file):
            file.check()

    def __contains__(self, name: object) -> bool:
        return name in self._changed or name in self.base

    def spec(self, name: str) -> TensorSpec:
        """Shape, dtype and file of a tensor; the file is that of the base's tensor.

        Raises:
            InputError: There is no such tensor, or its file is broken.
        """
        return self._match.specs.get(name) or self.base.spec(name)

    def where(self, name: str) -> pathlib.Path:
        """File that a tensor's values come from, for messages; the adapter's if they change."""
        ours = name in self._changed or name in self._match.broken
        return self._adapter.path if ours else self.base.where(name)

    def stored(self, name: str) -> bool:
        """Whether a tensor's bytes are those in a file of the base."""
        changed = name in self._copied or name in self._changed or name in self._match.broken
        return not changed and self.base.stored(name)

    @property
    def conflicts(self) -> Mapping[str, str]:
        """Why a tensor cannot be read, by name, as for the base."""
        return self.base.conflicts

    def part(self, name: str) -> Part:
        """Tensor of the base's files that a matrix is, or is part of."""
        return self.base.part(name)

    def layout(self, file: str) -> dict[str, TensorSpec]:
        """Tensors of a file of the base as a copy has them; a head of its own is beside others."""
        layout = dict(self.base.layout(file))
        for name, spec in self._match.specs.items():
            if spec.file == file:
                layout[self.place(name).tensor] = spec
        return layout

    def place(self, name: str) -> Part:
        """Where a copy has a matrix: a tensor of `layout`, or a part of one."""
        return self.base.place(name) if name in self.base else Part(name)

    def packed(self, name: str) -> str:
        """Format that a tensor of the base is quantised in; empty if the adapter replaces it."""
        return "" if self._is_replaced(name) else self.base.packed(name)

    def precision(self, name: str, rows: tuple[int, int] | None = None) -> Precision:
        """What storing the base rounded of a tensor; what is merged in is not rounded."""
        if self._is_replaced(name):
            return super().precision(name, rows)
        return self.base.precision(name, rows)

    def _is_replaced(self, name: str) -> bool:
        """Whether nothing of the base is in a tensor."""
        change = self._match.changes.get(name)
        return name not in self.base or (change is not None and bool(change.whole))

    def header(self, file: str) -> Shard:
        """One of `files`, which are the base's, or the adapter's own, opened."""
        return self._adapter if file == WEIGHTS else self.base.header(file)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A tensor of the merged model, or its rows, as `Checkpoint.read`.

        Raises:
            InputError: As `Checkpoint.read`, or the adapter does not fit the tensor.
        """
        if name in self._match.broken:
            raise InputError(f"adapter {self.path}: {name}: {self._match.broken[name]}")
        if name in self._changed:
            return self._changed[name].read(rows)
        if name in self._copied:
            tensor = self._composed(name)
            return tensor if rows is None else tensor[slice(*rows)]
        return self.base.read(name, rows)

    def _composed(self, name: str) -> np.ndarray:
        """A tensor of a copy, with the matrices that are changed in it."""
        first = self.place(self._copied[name][0])
        if first.is_whole:
            return self.read(self._copied[name][0])
        tensor = self.base.read(name)
        for matrix in self._copied[name]:
            part = self.place(matrix)
            stored = tensor if part.expert is None else tensor[part.expert]
            part.of_matrix(stored)[...] = self.read(matrix)
        return tensor

    def _base_rows(self, name: str, rows: tuple[int, int]) -> np.ndarray:
        """Rows of the tensor of the base that one of the merged model is made of."""
        separated = self._match.separated and name == self._match.head
        return self.base.read(self._match.embedding if separated else name, rows)

    def _merged_config(self) -> dict[str, Any]:
        """config.json of the base, with the vocabulary and the tie of the merged model."""
        changes: dict[str, Any] = {}
        if self._match.embedding in self._match.specs:
            changes["vocab_size"] = self.spec(self._match.embedding).shape[0]
        if self._match.separated:
            changes["tie_word_embeddings"] = False
        config, text = self.base.config, self.base.config.get("text_config")
        if not changes or not isinstance(text, dict):
            return {**config, **changes}
        return {**config, **changes, "text_config": {**text, **changes}}

    def _notes(self) -> list[str]:
        """Notes for readers of the results."""
        match, base, named = self._match, self.base, self.lora.base
        changes = match.changes.values()
        factors = sum(change.product is not None for change in changes)
        whole = sum(bool(change.whole) for change in changes)
        notes = [
            f"{self.path} is a {'DoRA' if self.lora.dora else 'LoRA'} adapter, merged into "
            f"{base.path}: {factors} matrices changed, {whole} tensors replaced"
        ]
        if named and not _same_base(named, base):
            notes.append(f"{self.lora.where} names {named!r} as its base, not {base.source}")
        if match.embedding in match.specs:
            rows = [side.spec(match.embedding).shape[0] for side in (self, base)]
            notes.append(
                f"the vocabulary is the adapter's: {rows[0]} tokens, {rows[1]} in the base"
            )
        tokens = {len(change.indices) for change in changes if change.tokens}
        if tokens:
            notes.append(f"{max(tokens)} trained tokens take the place of the base's")
        if match.separated:
            notes.append(
                "the output head is no longer the embedding, as the adapter changes them apart"
            )
        if match.ignored:
            names = printable(", ".join(sorted(match.ignored)), 300)
            notes.append(f"left aside, as the base has nothing of that name: {names}")
        if match.unchanged:
            names = printable(", ".join(match.unchanged), 300)
            notes.append(
                f"{len(match.unchanged)} layers that target_modules of {self.lora.where} names "
                f"have no factors and stay the base's: {names}"
            )
        for name, why in match.broken.items():
            notes.append(f"the adapter's {name} cannot be merged, and the model not be run: {why}")
        return notes


def is_adapter(path: pathlib.Path) -> bool:
    """Whether a directory holds an adapter, and no model of its own."""
    model, adapter = (
        any(os.path.lexists(path / name) for name in names)
        for names in ((files.SINGLE, files.INDEX), (CONFIG, WEIGHTS))
    )
    return adapter and not model


def _no_factors(path: pathlib.Path) -> str:
    if os.path.lexists(path / _PICKLE):
        return (
            f"{path / _PICKLE}: a pickle, which is never opened; expected {WEIGHTS}; "
            "load it with PEFT where its origin is trusted, and save_pretrained(...) writes it"
        )
    return f"{path}: holds {CONFIG}, but no {WEIGHTS}"


def _same_base(named: str, base: Checkpoint) -> bool:
    """Whether a recorded base may be this one: the same directory, or the same last name."""
    try:
        if pathlib.Path(named).resolve() == base.path.resolve():
            return True
    except (OSError, RuntimeError, ValueError):
        return False
    last = [text.rstrip("/").rpartition("/")[2].partition("@")[0] for text in (named, base.source)]
    return last[0] == last[1]
