"""A checkpoint under other names, its matrices being tensors of another one or parts of these."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from svdjax.checkpoint.reader import Checkpoint, Part
from svdjax.checkpoint.safetensors_file import Shard, TensorSpec


class CheckpointView(Checkpoint):
    """Checkpoint whose tensors are those of another one, some of them renamed or cut into matrices.

    Tensors of which a part is taken are no longer among the names, but can still be asked for.

    Attributes:
        inner: Checkpoint that is looked at.
        parts: What each matrix under another name is in `inner`.
    """

    def __init__(
        self,
        inner: Checkpoint,
        parts: Mapping[str, Part],
        notes: Iterable[str] = (),
        without: Iterable[str] = (),
        *,
        renames: bool = False,
    ):
        """Takes over all that is not renamed.

        Args:
            inner: Checkpoint that is looked at.
            parts: What each matrix under another name is in it.
            notes: Added to its own.
            without: Tensors of it that are not to be among the names.
            renames: Whether a copy has the tensors that are whole under the names of here.
        """
        self.inner, self.parts = inner, dict(parts)
        self.source, self.path, self.config = inner.source, inner.path, inner.config
        self.listing, self.files, self.described = inner.listing, inner.files, inner.described
        self.notes = (*inner.notes, *notes)
        taken = {*without, *(part.tensor for part in self.parts.values())}
        self.names = tuple(sorted({*self.parts, *(n for n in inner.names if n not in taken)}))
        self._names = frozenset(self.names)
        self._whole = {part.tensor: name for name, part in self.parts.items() if part.is_whole}
        self._copied = self._whole if renames else {}

    @property
    def home(self) -> pathlib.Path:
        """Directory with config.json."""
        return self.inner.home

    @property
    def tokenizer(self) -> pathlib.Path:
        """Directory with the tokenizer."""
        return self.inner.tokenizer

    @property
    def conflicts(self) -> Mapping[str, str]:
        """Why a tensor cannot be read, by name."""
        return {self._whole.get(name, name): why for name, why in self.inner.conflicts.items()}

    def close(self) -> None:
        """Frees what is in memory."""
        self.inner.close()

    def check_unchanged(self) -> None:
        """Raises `InputError` if a file that was read has changed since."""
        self.inner.check_unchanged()

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def part(self, name: str) -> Part:
        """Tensor of the files that a matrix is, or is part of."""
        part = self.parts.get(name)
        return self.inner.part(name) if part is None else part.of(self.inner.part(part.tensor))

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of a matrix, and file of the tensor that it is part of."""
        part = self.parts.get(name)
        if part is None:
            return self.inner.spec(name)
        spec = self.inner.spec(part.tensor)
        return dataclasses.replace(spec, shape=part.shape(spec.shape))

    def where(self, name: str) -> pathlib.Path:
        """File that a matrix's values come from, for messages."""
        part = self.parts.get(name)
        return self.inner.where(name if part is None else part.tensor)

    def stored(self, name: str) -> bool:
        """Whether a matrix's bytes are those of a tensor in its file."""
        part = self.parts.get(name)
        if part is None:
            return self.inner.stored(name)
        return part.is_whole and self.inner.stored(part.tensor)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A matrix, or its rows, as `Checkpoint.read`."""
        part = self.parts.get(name)
        if part is None or part.is_whole:
            return self.inner.read(name if part is None else part.tensor, rows)
        if part.expert is None and not part.transposed and part.span and part.span[2] == 1:
            start, stop, _ = part.span
            first, last, _ = slice(*(rows or (None, None))).indices(stop - start)
            return self.inner.read(part.tensor, (start + first, start + max(last, first)))
        if part.expert is None:
            tensor = self.inner.read(part.tensor)
        else:
            tensor = self.inner.read(part.tensor, (part.expert, part.expert + 1))[0]
        matrix = part.of_matrix(tensor)
        return np.ascontiguousarray(matrix if rows is None else matrix[slice(*rows)])

    def header(self, file: str) -> Shard:
        """One of `files`, opened; raises `InputError` if it is broken."""
        return self.inner.header(file)

    def layout(self, file: str) -> dict[str, TensorSpec]:
        """Tensors of a file, under the names that a copy of the checkpoint gives them."""
        layout = self.inner.layout(file)
        return {self._copied.get(name, name): spec for name, spec in layout.items()}

    def known_as(self, name: str) -> str:
        """Name here of a tensor that is called so in the files."""
        name = self.inner.known_as(name)
        return self._whole.get(name, name)

    def place(self, name: str) -> Part:
        """Where a copy has a matrix: a tensor of `layout`, or a part of one."""
        part = self.parts.get(name, Part(name))
        place = part.of(self.inner.place(part.tensor))
        return dataclasses.replace(place, tensor=self._copied.get(place.tensor, place.tensor))


class PairView(CheckpointView):
    """View for one pair: of what the other side has."""

    @property
    def model(self) -> Checkpoint:
        """The checkpoint as it was opened."""
        return self.inner.model
