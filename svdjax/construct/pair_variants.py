"""The constructed models of one pair: made, judged and journaled."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from svdjax.atomic import write_json
from svdjax.checkpoint import Projection, digest_of, model_config
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.construct.build import by_tensor
from svdjax.construct.card import model_card
from svdjax.construct.changes import Change, pooled, record
from svdjax.construct.contract import parameter_count
from svdjax.construct.controls import Control
from svdjax.construct.heldout import Heldout
from svdjax.construct.job import ConstructJob
from svdjax.construct.recipes import Variant
from svdjax.construct.results import ConstructionResults, VariantResult
from svdjax.construct.tree import replaced_leaves
from svdjax.construct.variant_builder import Model, VariantBuilder, store
from svdjax.engine.context import Context
from svdjax.engine.store import from_json, to_json
from svdjax.text.divergence import Divergence, Divergences

JOURNAL = ".constructions"
_ORIGINAL = "original"
_AT_BASE = 1e-3


class PairVariants:
    """The constructed models of one pair: what each is, its numbers, and their journal.

    Weights and text are put on the devices when they are first needed, and kept.

    Attributes:
        name: The pair's.
        builder: Builds them.
        heldout: The text they are judged by, where there is one.
        variants: Those that can be made.
        models: Variants and controls by name, in the order in which they are made.
    """

    def __init__(self, builder: VariantBuilder, heldout: Heldout | None, context: Context):
        self.builder, self.heldout, self._context = builder, heldout, context
        self.name, self._job = builder.job.spec.name, builder.job
        self._journal = context.workdir / JOURNAL / self.name
        self._divergences: Divergences | None = None
        self.variants = builder.possible()
        # A control follows its variant, while that one's distances are remembered.
        ordered = [m for each in self.variants for m in (each, *builder.controls([each]))]
        self.models: dict[str, Model] = {model.name: model for model in ordered}

    def results(self) -> ConstructionResults:
        """The results, all of which the journal holds."""
        spec, text = self._job.spec, self.heldout
        models = {name: self._read(model) for name, model in self.models.items()}
        results = {name: result for name, result in models.items() if result is not None}
        loss = self.read_loss() if text and models else math.nan
        assert results.keys() == models.keys()
        assert loss is not None
        chosen = self._context.settings.chosen_variants
        return ConstructionResults(
            pair=spec.name,
            base=spec.base,
            post=spec.post,
            other=spec.other,
            text=str(text.path) if text else "",
            texts=text.texts if text else 0,
            tokens=text.tokens if text else 0,
            original_loss=loss,
            variants={each.name: results.pop(each.name) for each in self.variants},
            left_out={each.name: why for each in chosen if (why := self.builder.why_not(each))},
            controls=results,
        )

    def missing(self) -> list[Model]:
        """The models that the journal lacks."""
        return [model for model in self.models.values() if self._read(model) is None]

    def cost(self, model: Model | None) -> float:
        """Floating point operations of making and judging a model, roughly; None: the original."""
        operations = 0.0
        if self.heldout is not None:
            tokens = sum(map(len, self.heldout.rows.tokens))
            operations = 2.0 * parameter_count(self._job.plan.post) * tokens
        if model is not None:
            # Of building alone; factors come to the same again where they are not kept.
            share = 1.0 if isinstance(model, Variant) else 0.5 if model.variant else 0.1
            for each in self.builder.projections(model):
                small, large = sorted(each.shape)
                operations += share * 12.0 * len(each.tensors) * large * small**2
        return operations

    def original_loss(self) -> float:
        """Loss of post on the held-out text."""
        return self._reference().measure(self.builder.original()).loss

    def make(self, model: Model, check: Callable[[], None]) -> VariantResult:
        """Makes and judges a model, and saves it where that is asked for."""
        began = time.perf_counter()
        control = model if isinstance(model, Control) else None
        variant = model.variant if isinstance(model, Control) else model
        construction = variant.recipe.name if variant else ""
        leaves: dict[str, np.ndarray] = {}
        projections = self.builder.projections(model)
        records: dict[str, list[dict[str, Any]]] = {each.name: [] for each in projections}
        with self._rewrite(model, projections) as rewrite:
            for group, built, _ in self.builder.groups(model, check):
                info = [
                    record(built, layer, "" if control else construction)
                    for layer in range(len(group.tensors))
                ]
                records[group.projection.name] += info
                if self.heldout is not None:
                    store(leaves, group, built)
                if rewrite is not None:
                    tensors = by_tensor(group, built.w)
                    rewrite.write(tensors, dict(zip(tensors, info, strict=True)))
            alphas = {} if isinstance(model, Control) else self.builder.alphas(model)
            changes = {name: pooled(each, alphas.get(name)) for name, each in records.items()}
            if rewrite is not None:
                assert isinstance(model, Variant)
                rewrite.finish(self._card(rewrite, model, changes))
        behaviour = Divergence(math.nan, math.nan, math.nan, math.nan, tokens=0)
        if self.heldout is not None:
            params = replaced_leaves(self.builder.original(), leaves)
            behaviour = self._reference().measure(params)
        every = [matrix for each in records.values() for matrix in each]
        whole = pooled(every)
        return VariantResult(
            name=model.name,
            construction=construction,
            modules=model.modules,
            signs=variant.signs if variant else "",
            title=model.title,
            change=whole.change,
            projections=changes,
            loss=behaviour.loss,
            kl=behaviour.kl,
            agreement=behaviour.agreement,
            seconds=time.perf_counter() - began,
            saved=f"models/{model.name}" if rewrite is not None else "",
            surviving=whole.surviving,
            surviving_predicted=whole.surviving_predicted,
            control=control.kind if control else "",
            control_of=variant.name if control and variant else "",
            # s is the surviving share; it is 0 but for what the storage dtype cannot carry.
            at_base=sum(matrix["surviving"] <= _AT_BASE for matrix in every)
            if control is not None and control.kind == "interpolated"
            else 0,
        )

    @contextlib.contextmanager
    def _rewrite(
        self, model: Model, projections: Sequence[Projection]
    ) -> Iterator[CheckpointRewrite | None]:
        """Where the checkpoint of a variant is written, if that is asked for; no control is."""
        if not self._context.settings.save_variants or isinstance(model, Control):
            yield None
            return
        target = self._context.workdir / self.name / "models" / model.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with CheckpointRewrite(
            self._job.plan.post,
            target,
            replaced=[name for each in projections for name in each.tensors],
            identity=self.key(model),
            overwrite=True,
        ) as rewrite:
            for _ in rewrite.copy():
                self._context.check(f"while {model.name} was laid out")
            yield rewrite

    def _card(
        self, rewrite: CheckpointRewrite, variant: Variant, changes: Mapping[str, Change]
    ) -> str:
        """The model card of a variant: that of the command that would have written it."""
        spec = self._job.spec
        job = ConstructJob(
            base=spec.base,
            post=spec.post,
            other=spec.other if variant.recipe.partner == "other" else "",
            out=str(rewrite.target),
            construction=variant.recipe.name,
            modules=variant.modules,
            signs=variant.signs or "raw",
            factorisation=self.builder.stacks.factorisation,
        )
        return model_card(job, changes, range(max(each.layers for each in changes.values())))

    def _reference(self) -> Divergences:
        """Post on the devices, put there when it is first needed."""
        assert self.heldout is not None
        if self._divergences is None:
            config = model_config(self._job.plan.post)
            self._divergences = Divergences(
                self.builder.original(), config, self.heldout.rows, mesh=self._context.mesh
            )
        return self._divergences

    def key(self, model: Model) -> str:
        """Digest of all that determines a model's numbers."""
        text, settings = self._job.spec.text, self._context.settings
        return digest_of(
            [
                self.builder.key(model),
                self._context.identity["inputs"][text] if text else "",
                settings.text_limit,
                settings.save_variants,
            ]
        )

    def original_key(self) -> str:
        """Digest of all that determines the original's loss."""
        spec, identity = self._job.spec, self._context.identity
        sources = [identity["inputs"][source] for source in (spec.post, spec.text)]
        return digest_of([*sources, self._context.settings.text_limit, identity["versions"]])

    def write(self, model: Model, result: VariantResult) -> None:
        """Journals a model."""
        write_json(self._path(model.name), {"key": self.key(model), "result": to_json(result)})

    def write_loss(self, loss: float) -> None:
        """Journals the original's loss."""
        write_json(self._path(_ORIGINAL), {"key": self.original_key(), "result": loss})

    def read_loss(self) -> float | None:
        """What was journaled of the original."""
        loss = self._stored(_ORIGINAL, self.original_key(), float)
        return loss if isinstance(loss, float) else None

    def _read(self, model: Model) -> VariantResult | None:
        """What was journaled of a model."""
        return self._stored(model.name, self.key(model), VariantResult)

    def _stored(self, name: str, key: str, kind: Any) -> Any:
        try:
            stored = json.loads(self._path(name).read_text("utf-8"))
            return from_json(kind, stored["result"]) if stored["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _path(self, name: str) -> pathlib.Path:
        return self._journal / f"{name}.json"
