"""A LoRA adapter and its base as one checkpoint, merged tensor by tensor as they are read.

Axes: `I` in, `O` out, `K` rank.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from svdjax.checkpoint import files
from svdjax.checkpoint.adapted import AdaptedModules
from svdjax.checkpoint.families import FAMILIES
from svdjax.checkpoint.formats import FLOATS, Precision
from svdjax.checkpoint.lora import CONFIG, WEIGHTS, read_lora_config
from svdjax.checkpoint.matching import Fault, raise_faults
from svdjax.checkpoint.reader import Checkpoint, Part
from svdjax.checkpoint.safetensors_file import Shard, TensorSpec
from svdjax.checkpoint.watched import WatchedFile
from svdjax.errors import InputError

_PREFIX = "base_model.model."
_SIDES = (".lora_A.weight", ".lora_B.weight")
# Rows that are merged at a time. Blocks start at multiples of it, so that a tensor has the same
# values whichever of its rows are read: a product's last bit depends on its shape.
_ROWS = 1024
_TIED = ("embed_tokens", "lm_head")
_PICKLE = "adapter_model.bin"


@dataclass(frozen=True)
class _Product:
    """Names of A [K, I] and B [O, K], and the factor of B A, or of its transpose."""

    a: str
    b: str
    scaling: float
    transposed: bool


class MergedCheckpoint(Checkpoint):
    """Checkpoint that ``merge_and_unload`` and ``save_pretrained`` would write, merged lazily.

    Names, shapes, dtypes and files are those of the base. A changed matrix is W + scaling * (B A),
    computed in float32 (float64 where W is), and rounded once, to the dtype of the base. PEFT does
    the same: it holds the factors in float32, adds the product to the weight in place, where torch
    promotes the sum to the wider dtype and rounds it to that of the weight; saving rounds nothing.
    Biases and modules of modules_to_save take the place of the base's, in its dtype.

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
        self.config, self.listing = base.config, base.listing
        self.names, self.files = base.names, base.files
        self._products: dict[str, _Product] = {}
        self._replaced: dict[str, str] = {}
        faults = self._match()
        intended = f" (made for {self.lora.base!r})" if self.lora.base else ""
        raise_faults(f"adapter {path}{intended} does not fit {base.path}", faults)
        self.changed = tuple(sorted({*self._products, *self._replaced}))
        self.notes = (*base.notes, *_notes(self))

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
        return name in self.base

    def spec(self, name: str) -> TensorSpec:
        """Shape, dtype and file of a tensor of the base; raises `InputError` as it does."""
        return self.base.spec(name)

    def where(self, name: str) -> pathlib.Path:
        """File that a tensor's values come from, for messages; the adapter's if they change."""
        return self._adapter.path if self._is_changed(name) else self.base.where(name)

    def stored(self, name: str) -> bool:
        """Whether a tensor's bytes are those in a file of the base."""
        return not self._is_changed(name) and self.base.stored(name)

    def _is_changed(self, name: str) -> bool:
        return name in self._products or name in self._replaced

    @property
    def conflicts(self) -> Mapping[str, str]:
        """Why a tensor cannot be read, by name, as for the base."""
        return self.base.conflicts

    def part(self, name: str) -> Part:
        """Tensor of the base's files that a matrix is, or is part of."""
        return self.base.part(name)

    def layout(self, file: str) -> dict[str, TensorSpec]:
        """Tensors of a file of the base, under the names that a copy gives them."""
        return self.base.layout(file)

    def place(self, name: str) -> Part:
        """Where a copy has a matrix: a tensor of `layout`, or a part of one."""
        return self.base.place(name)

    def packed(self, name: str) -> str:
        """Format that a tensor of the base is quantised in; empty if the adapter replaces it."""
        return "" if name in self._replaced else self.base.packed(name)

    def precision(self, name: str, rows: tuple[int, int] | None = None) -> Precision:
        """What storing the base rounded of a tensor; what is merged in is not rounded."""
        return (
            super().precision(name) if name in self._replaced else self.base.precision(name, rows)
        )

    def header(self, file: str) -> Shard:
        """One of `files`, which are the base's, or the adapter's own, opened."""
        return self._adapter if file == WEIGHTS else self.base.header(file)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A tensor of the merged model, or its rows, as `Checkpoint.read`."""
        if name in self._products:
            return self._merge(name, self._products[name], rows)
        if name in self._replaced:
            with np.errstate(over="ignore"):
                tensor = self._adapter.read(self._replaced[name], rows)
                return tensor.astype(self.spec(name).dtype)
        return self.base.read(name, rows)

    def _merge(self, name: str, product: _Product, rows: tuple[int, int] | None) -> np.ndarray:
        """Merged rows, block by block: beside them there is one block in the wider dtype."""
        spec = self.spec(name)
        start, stop = (0, spec.shape[0]) if rows is None else rows
        stop = min(stop, spec.shape[0])
        wide = np.dtype(np.float64 if spec.dtype.itemsize == 8 else np.float32)
        a, b = (self._adapter.read(name).astype(np.float32) for name in (product.a, product.b))
        if product.transposed:
            a, b = b.T, a.T
        scaling = np.float32(product.scaling)
        merged = np.empty((max(stop - start, 0), spec.shape[1]), spec.dtype)
        # Callers count NaN and Inf, and name the tensor.
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(start - start % _ROWS, stop, _ROWS):
                last = min(first + _ROWS, spec.shape[0])
                block = self.base.read(name, (first, last)).astype(wide)
                block += (b[first:last] @ a) * scaling
                begin, end = max(first, start), min(last, stop)
                merged[begin - start : end - start] = block[begin - first : end - first]
        return merged

    def _match(self) -> list[Fault]:
        """Fills `_products` and `_replaced`; returns the faults of all tensors."""
        faults: list[Fault] = []
        modules: set[str] = set()
        for name, spec in self._adapter.specs.items():
            side = next((side for side in _SIDES if name.endswith(side)), "")
            if not name.startswith(_PREFIX):
                fault = f"is not named {_PREFIX}..., as PEFT names the tensors of an adapter"
            elif spec.dtype not in FLOATS:
                fault = f"is {spec.dtype}, expected bf16, f16 or f32"
            elif side:
                modules.add(name.removeprefix(_PREFIX).removesuffix(side))
                continue
            else:
                fault = self._match_whole(name, spec)
            if fault:
                faults.append(Fault(name, f"tensor {{name}} {fault}"))
        rules = AdaptedModules(
            self.lora, [*sorted(modules), *(name.rpartition(".")[0] for name in self.base.names)]
        )
        for module in sorted(modules):
            faults += self._match_product(module, rules)
        return faults + self._missing(modules, rules)

    def _match_whole(self, name: str, spec: TensorSpec) -> str:
        """Notes a tensor that replaces one of the base; returns its fault, if any."""
        target = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        module, _, leaf = target.rpartition(".")
        trained = leaf == "bias" and self.lora.bias != "none"
        if not (trained or self.lora.is_saved(module)):
            return (
                f"is used by nothing: it is no factor of LoRA, and {self.lora.where} names neither "
                "trained biases nor modules_to_save that it belongs to"
            )
        if target not in self.base:
            return "takes the place of a tensor that the base does not have"
        if self.base.config.get("tie_word_embeddings") and module.endswith(_TIED):
            return (
                "replaces the embedding or the output head, which the base ties together; merge "
                "the adapter with PEFT and give the result"
            )
        shape = self.base.spec(target).shape
        if spec.shape != shape:
            return f"has shape {spec.shape}, expected {shape} of the base's {target}"
        self._replaced[target] = name
        return ""

    def _match_product(self, module: str, rules: AdaptedModules) -> list[Fault]:
        """Notes the factors of a module; returns their faults."""
        names = [f"{_PREFIX}{module}{side}" for side in _SIDES]
        for name in names:
            if name not in self._adapter.specs:
                return [Fault(name, "tensor {name} is missing, the other factor is there")]
        target = f"{module}.weight"
        if target not in self.base:
            return [Fault(names[0], "tensor {name} changes a layer that the base does not have")]
        if rules.targets(module) is False:
            text = f"tensor {{name}} is used by nothing: not in target_modules of {self.lora.where}"
            return [Fault(names[0], text)]
        spec, rank = self.base.spec(target), rules.rank_of(module)
        # PEFT goes by the kind of the layer; those of the families in the table are all nn.Linear.
        linear = self.base.config.get("model_type") in FAMILIES
        transposed = self.lora.fan_in_fan_out and not linear
        if len(spec.shape) != 2 or spec.dtype not in FLOATS:
            text = f"tensor {{name}} changes a {spec.dtype} tensor of shape {spec.shape}"
            return [Fault(names[0], f"{text}, expected a matrix of floats")]
        rows, columns = spec.shape[::-1] if transposed else spec.shape
        faults = [
            Fault(
                name,
                f"tensor {{name}} has shape {self._adapter.specs[name].shape}, expected {shape}: "
                f"rank {rank} by {self.lora.where}, and {spec.shape} in the base",
            )
            for name, shape in zip(names, ((rank, columns), (rows, rank)))
            if self._adapter.specs[name].shape != shape
        ]
        if not faults:
            self._products[target] = _Product(names[0], names[1], rules.scaling(module), transposed)
        return faults

    def _missing(self, modules: set[str], rules: AdaptedModules) -> list[Fault]:
        """Faults of linear layers that the configuration names and the file has no factors of."""
        faults = []
        for name in self.base.names:
            module, _, leaf = name.rpartition(".")
            if leaf != "weight" or module in modules or not rules.targets(module):
                continue
            if self.lora.is_saved(module) or len(self.base.spec(name).shape) != 2:
                continue
            if not module.endswith("embed_tokens"):
                text = "tensor {name} is missing, though target_modules names its layer"
                faults.append(Fault(f"{_PREFIX}{module}{_SIDES[0]}", text))
        return faults


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


def _notes(merged: MergedCheckpoint) -> list[str]:
    """Notes for readers of the results."""
    base, named = merged.base, merged.lora.base
    notes = [
        f"{merged.path} is a LoRA adapter, merged into {base.path}: {len(merged._products)} "
        f"matrices changed, {len(merged._replaced)} tensors replaced"
    ]
    if named and not _same_base(named, base):
        notes.append(f"{merged.lora.where} names {named!r} as its base, not {base.source}")
    return notes


def _same_base(named: str, base: Checkpoint) -> bool:
    """Whether a recorded base may be this one: the same directory, or the same last name."""
    try:
        if pathlib.Path(named).resolve() == base.path.resolve():
            return True
    except (OSError, RuntimeError, ValueError):
        return False
    last = [text.rstrip("/").rpartition("/")[2].partition("@")[0] for text in (named, base.source)]
    return last[0] == last[1]
