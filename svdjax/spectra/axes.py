"""Leading axes of a projection's arrays: layers, and experts where there are some.

Axis legend: `L` layers, `E` experts, `M` = L E matrices, layer by layer. Arrays of a dense
projection are [L, ...], those of a projection of experts [L, E, ...], on disk too. What goes
through matrices one by one takes them flat, [M, ...].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Place(NamedTuple):
    """Place of a matrix in its projection.

    Attributes:
        layer: Number of the layer in the model.
        expert: Number of the expert; None where there are none, or all of a layer are meant.
    """

    layer: int
    expert: int | None = None

    @property
    def words(self) -> str:
        """``layer 3``, or ``layer 3, expert 5``."""
        return f"layer {self.layer}" + ("" if self.expert is None else f", expert {self.expert}")

    @property
    def label(self) -> str:
        """``3``, or ``3.5``."""
        return str(self.layer) + ("" if self.expert is None else f".{self.expert}")


class Axes:
    """Numbers along the leading axes of a projection's arrays.

    Attributes:
        layers: Number of layers `L`.
        layer_numbers: Their numbers in the model, [L].
        expert_numbers: Numbers of the experts in every layer, [E]; empty where there are none.
    """

    layers: Any  # a field of one class, a property of another
    layer_numbers: tuple[int, ...]
    expert_numbers: tuple[int, ...]

    @property
    def experts(self) -> int:
        """Number of experts in a layer; 1 where there are none."""
        return len(self.expert_numbers) or 1

    @property
    def matrices(self) -> int:
        """Number of matrices `M`."""
        return self.layers * self.experts

    @property
    def places(self) -> list[Place]:
        """Place of every matrix, [M]."""
        experts = self.expert_numbers or (None,)
        return [Place(layer, expert) for layer in self.layer_numbers for expert in experts]

    def index(self, layer: int, expert: int | None = None) -> int:
        """Number of a matrix among the `M`; without an expert the layer's first."""
        place = 0 if expert is None else self.expert_numbers.index(expert)
        return self.layer_numbers.index(layer) * self.experts + place

    def split(self, flat: Any) -> np.ndarray:
        """An array [M, ...] as [L, ...] or [L, E, ...]."""
        flat = np.asarray(flat)
        if not self.expert_numbers:
            return flat
        return flat.reshape(self.layers, self.experts, *flat.shape[1:])

    def flatten(self, array: Any) -> np.ndarray:
        """An array [L, ...] or [L, E, ...] as [M, ...]."""
        array = np.asarray(array)
        return array.reshape(self.matrices, *array.shape[2:]) if self.expert_numbers else array

    def numbered(self) -> dict[str, Any]:
        """Entries for JSON: the numbers where they do not follow from the counts."""
        entries: dict[str, Any] = {}
        if self.layer_numbers != tuple(range(self.layers)):
            entries["layer_numbers"] = list(self.layer_numbers)
        if self.expert_numbers:
            entries["expert_numbers"] = list(self.expert_numbers)
        return entries
