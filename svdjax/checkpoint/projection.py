"""Linear layers that are analysed under one name, and how they come from the names of tensors."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from svdjax.checkpoint.canonical import DECODER


@dataclasses.dataclass(frozen=True)
class Projection:
    """Linear layer of every block, analysed under one name.

    Matrix i is that of layer ``layers[i // E]`` and, where there are E > 0 experts, of expert
    ``experts[i % E]``; every layer in it has all of them.

    Attributes:
        name: Name in Hugging Face: q_proj, ..., down_proj; the whole tensor name where the
            architecture is unknown.
        module: "self_attn", "mlp" or "".
        shape: (in, out) of the matrices.
        tensors: Names of the matrices' tensors, layer by layer, those of its experts in order.
        transposed: Whether the tensors are stored as (out, in).
        rows: Rows [start, stop) of a fused tensor that make up this projection, when split.
        layers: Numbers of the layers it is in; by default 0, 1, ...
        experts: Numbers of the experts; empty where there are none.
    """

    name: str
    module: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    transposed: bool = True
    rows: tuple[int, int] | None = None
    layers: tuple[int, ...] = ()
    experts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        each = max(len(self.experts), 1)
        if not self.layers:
            object.__setattr__(self, "layers", tuple(range(len(self.tensors) // each)))
        assert len(self.tensors) == len(self.layers) * each

    def matrices_of(self, layers: Collection[int]) -> list[int]:
        """Places in `tensors` of the matrices of some layers, given by their numbers."""
        each = max(len(self.experts), 1)
        return [i for i in range(len(self.tensors)) if self.layers[i // each] in layers]

    def of_layers(self, places: Iterable[int]) -> Projection:
        """The projection in some of its layers, given by their places in `layers`."""
        each = max(len(self.experts), 1)
        chosen = tuple(places)
        return dataclasses.replace(
            self,
            layers=tuple(self.layers[place] for place in chosen),
            tensors=tuple(
                name for place in chosen for name in self.tensors[place * each : (place + 1) * each]
            ),
        )

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Shape of the tensors, or of the rows of them."""
        rows, columns = self.shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def path(self) -> str:
        """Path of the decoder's leaf, [L, I, O] or of experts [L, E, I, O]."""
        name = "gate" if self.name == "router" else self.name.replace(".", "/")
        return f"layers/{self.module}/{name}/kernel"

    @property
    def turned(self) -> bool:
        """Whether a matrix with its short side as rows is W^T; a square one is as stored."""
        rows, columns = self.shape
        return rows > columns or (rows == columns and self.transposed)


class Place(NamedTuple):
    """Where a tensor belongs, by its name.

    Attributes:
        template: The name with "*" for the numbers of layer and expert.
        layer: Number of the layer; None where the tensor is in none.
        expert: Number of the expert; None where it is of none.
    """

    template: str
    layer: int | None = None
    expert: int | None = None


_STACKS = ("layers", "layer", "h", "blocks", "block", "resblocks")
_MODULES = ("self_attn", "mlp")
ROLES = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj"),
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
    *("o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj", "router"),
    *("experts.gate_proj", "experts.up_proj", "experts.down_proj"),
)
"""Names of the decoder's projections in the order of results; others follow by name."""


_NUMBER = r"(0|[1-9][0-9]{0,5})"
_FIRST_NUMBER = re.compile(rf"\.{_NUMBER}(?=\.)")  # inside of the name
_EXPERT = re.compile(rf"(?<=\.experts\.){_NUMBER}(?=\.|\Z)")


def places(names: Iterable[str]) -> Mapping[str, Place]:
    """Place of each tensor. Layers are numbered after a known word, or from 0 without gaps."""
    return _places(frozenset(names))


@functools.lru_cache(maxsize=4)  # a pair asks for those of the same names several times
def _places(names: frozenset[str]) -> Mapping[str, Place]:
    first = {name: _FIRST_NUMBER.search(name) for name in names}
    numbers: dict[str, set[int]] = collections.defaultdict(set)
    for name, number in first.items():
        if number:
            numbers[name[: number.start()]].add(int(number[1]))
    stacks = {
        head
        for head, found in numbers.items()
        if head.rpartition(".")[2] in _STACKS
        or (len(found) > 1 and found == set(range(len(found))))
    }
    return {name: _place(name, number, stacks) for name, number in first.items()}


def _place(name: str, number: re.Match[str] | None, stacks: set[str]) -> Place:
    if number is None or name[: number.start()] not in stacks or "*" in name:
        return Place(name)
    head, rest = name[: number.start(1)], name[number.end() :]
    expert = _EXPERT.search(rest)
    if expert is None:
        return Place(f"{head}*{rest}", int(number[1]))
    template = f"{head}*{rest[: expert.start()]}*{rest[expert.end() :]}"
    return Place(template, int(number[1]), int(expert[1]))


def role(template: str) -> tuple[str, str]:
    """Module and name of the projection that a template stands for.

    In the decoder these are as in Hugging Face (``self_attn``, ``q_proj``), those of experts
    ``experts.gate_proj``, and the gate that chooses them is ``router``; elsewhere the template.
    """
    if not template.startswith(f"{DECODER}*."):
        return "", template
    rest = template.removeprefix(f"{DECODER}*.").removesuffix(".weight").replace(".*", "")
    module, _, name = rest.partition(".")
    if module not in _MODULES or not name:
        return "", rest
    return module, "router" if module == "mlp" and name == "gate" else name


def group(
    shapes: Mapping[str, tuple[int, ...]], where: Mapping[str, Place], order: Iterable[str] = ROLES
) -> list[Projection]:
    """Projections of matrices that both sides have: one for all layers and experts of a template.

    Where shapes or experts differ between layers there are several, with the shape in the name.

    Args:
        shapes: Shape [out, in] of each matrix, by name.
        where: Place of each.
        order: Names of projections of the decoder that come first.
    """
    layers: dict[tuple[str, tuple[int, ...]], dict[int | None, dict[int | None, str]]] = {}
    for name, shape in shapes.items():
        place = where[name]
        by_layer = layers.setdefault((place.template, shape), {})
        by_layer.setdefault(place.layer, {})[place.expert] = name
    projections: list[Projection] = []
    for (template, (rows, columns)), by_layer in layers.items():
        grids: dict[tuple[int | None, ...], list[int | None]] = {}
        for layer in sorted(by_layer, key=lambda number: number or 0):
            experts = tuple(sorted(by_layer[layer], key=lambda number: number or 0))
            grids.setdefault(experts, []).append(layer)
        module, name = role(template)
        for experts, numbers in grids.items():
            tensors = tuple(by_layer[layer][expert] for layer in numbers for expert in experts)
            lone = len(tensors) == 1 and not template.startswith(DECODER)
            projections.append(
                Projection(
                    tensors[0] if lone else name,
                    module,
                    (columns, rows),
                    tensors,
                    layers=tuple(number or 0 for number in numbers),
                    experts=() if experts == (None,) else tuple(number or 0 for number in experts),
                )
            )
    ranks = {name: rank for rank, name in enumerate(order)}
    projections.sort(key=lambda each: _rank(each, ranks))
    return distinct(projections)


def _rank(projection: Projection, ranks: Mapping[str, int]) -> tuple[bool, int, list[str | int]]:
    name = projection.name
    pieces = [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]
    return not projection.module, ranks.get(name, len(ranks)), pieces


def distinct(projections: list[Projection]) -> list[Projection]:
    """The projections, with what tells them apart in names that occur twice."""
    counts = collections.Counter(each.name for each in projections)
    taken = {name for name, count in counts.items() if count == 1}
    named = []
    for each in projections:
        name = each.name
        if counts[name] > 1:
            stem = f"{name} {each.shape[0]}x{each.shape[1]}"
            if each.experts:
                stem += f"x{len(each.experts)}"
            name, number = stem, 2
            while name in taken:
                name, number = f"{stem} ({number})", number + 1
            taken.add(name)
        named.append(dataclasses.replace(each, name=name))
    return named
