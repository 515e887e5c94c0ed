"""Tensors of an adapter matched with those of its base: what changes, and what does not fit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from svdjax.checkpoint.adapted import AdaptedModules
from svdjax.checkpoint.adapter_tensors import PREFIX, adapter_tensors
from svdjax.checkpoint.canonical import canonical_names
from svdjax.checkpoint.families import FAMILIES
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.lora import LoraConfig
from svdjax.checkpoint.matching import Fault
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.safetensors_file import TensorSpec
from svdjax.checkpoint.tensor_change import Product, TensorChange

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_LAYER = re.compile(r"\.\d+\.")
_PAIRS = {
    ("a", "b"): (".lora_A.weight", ".lora_B.weight"),
    ("embedding_a", "embedding_b"): (".lora_embedding_A", ".lora_embedding_B"),
}


class AdapterMatch:
    """Changes that an adapter makes to the tensors of its base, from headers alone.

    Attributes:
        changes: Changes by the tensors' names; the output head may be one that the base has not.
        specs: Entries of the tensors whose shape is not the base's, and of those it has not.
        embedding: Name of the base's embedding; empty where it has none.
        head: Name of the output head.
        is_tied: Whether the merged model's head is its embedding.
        separated: Whether it is not, though the base's is.
        broken: Why embedding or head cannot be merged, by name.
        ignored: Tensors of the adapter that the base has no place for.
        unchanged: Layers that a pattern of the configuration names and the adapter has no factors
            of, which PEFT leaves as they are.
        faults: Faults of all other tensors.
    """

    def __init__(self, lora: LoraConfig, specs: Mapping[str, TensorSpec], base: Checkpoint):
        """Matches the adapter's tensors.

        Args:
            lora: Configuration of the adapter.
            specs: Entries of its tensors.
            base: Checkpoint that it is merged into.

        Raises:
            InputError: A regular expression of the configuration is invalid, or takes too long.
        """
        self._lora, self._stored, self._base = lora, specs, base
        self._tensors = adapter_tensors(specs)
        self.changes: dict[str, TensorChange] = {}
        self.specs: dict[str, TensorSpec] = {}
        self.broken: dict[str, str] = {}
        self.ignored: list[str] = []
        self.unchanged: list[str] = []
        self.faults = self._tensors.faults
        self.embedding = next((name for name in base.names if name.endswith(_EMBEDDING)), "")
        self.head = next((name for name in base.names if name.endswith(_HEAD)), _HEAD)
        family = FAMILIES.get(str(base.config.get("model_type")))
        default = self.head not in base
        if family is not None:
            default = family.defaults["tie_word_embeddings"]
        self.is_tied = bool(self.embedding and base.config.get("tie_word_embeddings", default))
        parts = [f"{module}.weight" for module in self._tensors.parts]
        self._canonical = canonical_names([*parts, *self._tensors.whole])
        self._saved = {self._target(name) for name in self._tensors.saved}
        for name in self._tensors.whole:
            self._match_whole(name)
        modules = [name.removesuffix(".weight") for name in base.names if name.endswith(".weight")]
        rules = AdaptedModules(lora, [*self._tensors.parts, *modules])
        for module, parts in sorted(self._tensors.parts.items()):
            self._match_module(module, parts, rules)
        self._check_complete(modules, rules)
        self.separated = self.is_tied and self._separate()
        self.is_tied = self.is_tied and not self.separated

    def spec(self, name: str) -> TensorSpec:
        """Entry of a tensor of the merged model."""
        if name in self.specs:
            return self.specs[name]
        tied = name == self.head and name not in self._base
        return self._base.spec(self.embedding if tied else name)

    def _target(self, name: str) -> str:
        """The base's name of a tensor that an adapter names as its own model does."""
        names = name, self._base.known_as(name), self._canonical.get(name, name)
        return next((each for each in names if self._has(each)), names[-1])

    def _has(self, target: str) -> bool:
        return target in self._base or (target == self.head and self.is_tied)

    def _fault(self, target: str, name: str, text: str) -> None:
        """Notes a fault, of embedding and head apart."""
        if target in (self.embedding, self.head):
            self.broken.setdefault(target, text.replace("{name}", name))
        else:
            self.faults.append(Fault(name, text))

    def _match_whole(self, own: str) -> None:
        """Notes a tensor that takes the place of one of the base."""
        name, target = self._tensors.whole[own], self._target(own)
        if not self._has(target):
            if _LAYER.search(target):
                text = "tensor {name} takes the place of a tensor that the base does not have"
                self._fault(target, name, text)
            else:
                self.ignored.append(name)
            return
        base, spec = self.spec(target), self._stored[name]
        if target in (self.embedding, self.head) and spec.shape[1:] == base.shape[1:]:
            if spec.shape != base.shape:
                self.specs[target] = dataclasses.replace(base, shape=spec.shape)
        elif spec.shape != base.shape:
            text = f"tensor {{name}} has shape {spec.shape}, expected {base.shape} of the base's"
            self._fault(target, name, f"{text} {target}")
            return
        self.changes[target] = TensorChange(whole=name)

    def _match_module(self, module: str, parts: Mapping[str, str], rules: AdaptedModules) -> None:
        """Notes the factors of a module, its magnitudes and its trained tokens."""
        target, first = self._target(f"{module}.weight"), min(parts.values())
        if not self._has(target):
            if _LAYER.search(target):
                text = "tensor {name} changes a layer that the base does not have"
                self._fault(target, first, text)
            else:
                self.ignored += parts.values()
            return
        # A head that stays tied is saved beside the embedding at times, with the same values.
        follows = target == self.head and self.is_tied
        if "tokens" in parts and not (follows and not self._has_own_tokens()):
            self._match_tokens(module, parts["tokens"])
        if parts.keys() <= {"tokens"} or (follows and self._lora.tied):
            return
        if rules.targets(module) is False:
            text = (
                f"tensor {{name}} is used by nothing: not in target_modules of {self._lora.where}"
            )
            self._fault(target, first, text)
            return
        pair = next((pair for pair in _PAIRS if not parts.keys().isdisjoint(pair)), ("a", "b"))
        for role, end in zip(pair, _PAIRS[pair]):
            if role not in parts:
                name = f"{PREFIX}{module}{end}"
                self._fault(target, name, "tensor {name} is missing, the other factor is there")
                return
        if self._tensors.whole.get(f"{module}.weight") == f"{PREFIX}{module}.weight":
            text = "tensor {name} is used by nothing: its layer has factors"
            self._fault(target, f"{PREFIX}{module}.weight", text)
            return
        self._match_product(module, parts, pair, rules)

    def _match_product(
        self, module: str, parts: Mapping[str, str], pair: tuple[str, str], rules: AdaptedModules
    ) -> None:
        target, where = self._target(f"{module}.weight"), self._lora.where
        spec, rank = self.spec(target), rules.rank_of(module)
        a, b = (parts[role] for role in pair)
        embedding = pair[0] == "embedding_a"
        # PEFT goes by the kind of the layer; those of the families in the table are all nn.Linear.
        linear = self._base.config.get("model_type") in FAMILIES
        turned = embedding or (self._lora.fan_in_fan_out and not linear)
        if len(spec.shape) != 2 or spec.dtype not in FLOATS:
            text = f"tensor {{name}} changes a {spec.dtype} tensor of shape {spec.shape}"
            self._fault(target, a, f"{text}, expected a matrix of floats")
            return
        rows, columns = spec.shape[::-1] if turned else spec.shape
        expected: dict[str, tuple[int, ...]] = {a: (rank, columns), b: (rows, rank)}
        magnitude = parts.get("magnitude", "")
        if bool(magnitude) != self._lora.dora:
            name = magnitude or f"{PREFIX}{module}.lora_magnitude_vector"
            why = "is missing, though" if self._lora.dora else "is used by nothing:"
            says = "asks for DoRA" if self._lora.dora else "does not ask for DoRA"
            self._fault(target, name, f"tensor {{name}} {why} {where} {says}")
            return
        if magnitude:
            expected[magnitude] = (rows,)
        faults = False
        for name, shape in expected.items():
            if self._stored[name].shape != shape:
                faults = True
                text = (
                    f"tensor {{name}} has shape {self._stored[name].shape}, expected {shape}: rank "
                    f"{rank} by {where}, and {spec.shape} in the base"
                )
                self._fault(target, name, text)
        if not faults:
            product = Product(a, b, rules.scaling(module), turned, embedding)
            self._change(target, product=product, magnitude=magnitude)

    def _match_tokens(self, module: str, name: str) -> None:
        """Notes the rows of trained tokens."""
        target = self._target(f"{module}.weight")
        indices = next(
            (
                indices
                for end, indices in self._lora.tokens.items()
                if f".{module}".endswith(f".{end}" if end else ".embed_tokens")
            ),
            (),
        )
        shape, spec = self._stored[name].shape, self.spec(target)
        expected = (len(indices), *spec.shape[1:])
        if shape != expected:
            text = f"tensor {{name}} has shape {shape}, expected {expected}: the tokens of "
            self._fault(target, name, f"{text}trainable_token_indices in {self._lora.where}")
        elif max(indices, default=0) >= spec.shape[0]:
            text = f"tensor {{name}} is of token {max(indices)}, and there are {spec.shape[0]}"
            self._fault(target, name, text)
        else:
            self._change(target, tokens=name, indices=indices)

    def _change(self, target: str, **fields: object) -> None:
        change = self.changes.get(target, TensorChange())
        self.changes[target] = dataclasses.replace(change, **fields)

    def _check_complete(self, modules: list[str], rules: AdaptedModules) -> None:
        """Looks for linear layers that the configuration names and the file has no factors of."""
        adapted = {
            self._target(f"{module}.weight")
            for module, parts in self._tensors.parts.items()
            if parts.keys() - {"tokens"}
        }
        for module in modules:
            target = f"{module}.weight"
            if target in adapted or not rules.targets(module):
                continue
            if self._lora.is_saved(module) or len(self._base.spec(target).shape) != 2:
                continue
            # A list names layers one by one, a pattern at times more than were trained.
            if isinstance(self._lora.targets, str):
                self.unchanged.append(module)
                continue
            pair = ("embedding_a", "embedding_b") if target == self.embedding else ("a", "b")
            text = "tensor {name} is missing, though target_modules names its layer"
            self._fault(target, f"{PREFIX}{module}{_PAIRS[pair][0]}", text)

    def _separate(self) -> bool:
        """Whether embedding and head, tied in the base, become two; settles what changes both."""
        embedding = self.changes.get(self.embedding, TensorChange())
        head = self.changes.get(self.head, TensorChange())
        if self._lora.tied:
            head = embedding
        # Saved without modules_to_save they are written into the one tensor that both are, the
        # head's after the embedding's.
        shared = [
            (change.whole, target)
            for change, target in ((head, self.head), (embedding, self.embedding))
            if change.whole and not self._is_saved(target)
        ]
        if shared:
            whole, source = shared[0]
            for target in (self.embedding, self.head):
                if not self._is_saved(target) and source in self.specs:
                    self.specs[target] = self.specs[source]
            if not self._is_saved(self.embedding):
                embedding = dataclasses.replace(embedding, whole=whole)
            if not self._is_saved(self.head):
                head = dataclasses.replace(head, whole=whole)
        if embedding.tokens and not self._has_own_tokens():
            head = dataclasses.replace(head, tokens=embedding.tokens, indices=embedding.indices)
        for target, change in ((self.embedding, embedding), (self.head, head)):
            self.changes.pop(target, None)
            if change != TensorChange():
                self.changes[target] = change
        if embedding == head:
            # A head that the base has beside its embedding stays the same as that.
            if self.head not in self._base:
                self.changes.pop(self.head, None)
                self.specs.pop(self.head, None)
            return False
        self.changes.setdefault(self.head, TensorChange())
        self.specs.setdefault(self.head, self._base.spec(self.embedding))
        return True

    def _has_own_tokens(self) -> bool:
        """Whether trained tokens are named for the head."""
        return any(end and self.head.endswith(f"{end}.weight") for end in self._lora.tokens)

    def _is_saved(self, target: str) -> bool:
        module = target.removesuffix(".weight")
        return target in self._saved or self._lora.is_saved(module)
