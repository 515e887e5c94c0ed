"""What the constructions stage leaves of a pair: ``constructions.json`` and its dataclasses."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from svdjax.atomic import plain, write_json
from svdjax.construct.changes import Change
from svdjax.errors import InputError

FORMAT_VERSION = 1
FILE = "constructions.json"


@dataclass(frozen=True)
class VariantResult:
    """One constructed model, or a control of one.

    Attributes:
      name: of the variant, see `svdjax.construct.recipes.VARIANTS`; of a control, see
        `svdjax.construct.controls`.
      construction: ``eq9`` to ``eq16``.
      modules: ``self_attn``, ``mlp`` or ``all``.
      signs: ``raw`` or ``aligned`` where it depends on them, else empty.
      title: a few words.
      change: ||new - post||_F / ||post||_F of all edited matrices together, as stored.
      projections: the same and more by projection.
      loss: next-token cross-entropy on the held-out text, nats per token; NaN without a text, or
        where the model's outputs are not finite.
      kl: mean KL(post || variant) of the next-token distributions, nats per token; likewise.
      agreement: percentage of tokens with the same likeliest prediction as post; likewise.
      seconds: what it took.
      saved: directory of the checkpoint, relative to the pair's; empty unless it was asked for.
      surviving: share of the change of post-training that is left, mean over the matrices, see
        `svdjax.spectral.constructions.surviving_share`.
      surviving_predicted: what a restoration leaves of a small random change, mean over the
        matrices; NaN for other models.
      control: ``noise``, ``interpolated`` or ``reverted``; empty for a construction.
      control_of: the variant whose distances a control has; empty for ``reverted``.
      at_base: of ``interpolated``, how many matrices are base's own, as the construction moved them
        farther than base lies.
    """

    name: str
    construction: str
    modules: str
    signs: str
    title: str
    change: float
    projections: Mapping[str, Change]
    loss: float = math.nan
    kl: float = math.nan
    agreement: float = math.nan
    seconds: float = 0.0
    saved: str = ""
    surviving: float = math.nan
    surviving_predicted: float = math.nan
    control: str = ""
    control_of: str = ""
    at_base: int = 0

    def summary(self) -> dict[str, Any]:
        """JSON-able but for NaN."""
        fields = asdict(self)
        return fields | {"projections": {k: v.summary() for k, v in self.projections.items()}}

    @classmethod
    def load(cls, entry: Mapping[str, Any]) -> VariantResult:
        """From what `summary` and JSON, where NaN is null, made of it.

        Raises:
          KeyError, TypeError, AttributeError: it is something else.
        """
        # Results of earlier versions have neither shares nor controls.
        fields: dict[str, Any] = {n: (_ADDED | dict(entry))[n] for n in cls.__dataclass_fields__}
        changes = {name: Change.load(one) for name, one in entry["projections"].items()}
        return cls(**{**_numbers(fields), "projections": changes})


_ADDED: dict[str, Any] = {
    **{"surviving": None, "surviving_predicted": None},
    **{"control": "", "control_of": "", "at_base": 0},
}


@dataclass(frozen=True)
class ConstructionResults:
    """All constructed models of one pair.

    Attributes:
      pair: name of the pair.
      base: as the user wrote it.
      post: likewise, the model that is edited.
      other: another post model, for eq. 12; empty if there is none.
      text: path of the held-out text; empty if there is none.
      texts: how many texts it holds.
      tokens: how many of its tokens count.
      original_loss: the loss of post on it, nats per token; NaN without a text.
      variants: by name, in the order of `svdjax.construct.recipes.VARIANTS`.
      left_out: variants that were asked for and could not be made, with the reason.
      controls: the controls of the variants by name, see `svdjax.construct.controls`; empty
        where none were asked for.
    """

    pair: str
    base: str
    post: str
    other: str = ""
    text: str = ""
    texts: int = 0
    tokens: int = 0
    original_loss: float = math.nan
    variants: dict[str, VariantResult] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    controls: dict[str, VariantResult] = field(default_factory=dict)

    def control(self, variant: VariantResult, kind: str) -> VariantResult | None:
        """The control of a variant; None where there is none."""
        of = "" if kind == "reverted" else variant.name
        for one in self.controls.values():
            if (one.control, one.control_of, one.modules) == (kind, of, variant.modules):
                return one
        return None

    def summary(self) -> dict[str, Any]:
        """What constructions.json holds, JSON-able (NaN is None)."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        variants = {name: one.summary() for name, one in self.variants.items()}
        controls = {name: one.summary() for name, one in self.controls.items()}
        models = {"variants": variants, "controls": controls}
        return plain({"format_version": FORMAT_VERSION, **fields, **models})

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes ``constructions.json``, whole or not at all; returns its path."""
        return write_json(pathlib.Path(directory) / FILE, self.summary())

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> ConstructionResults:
        """Reads what `save` wrote.

        Raises:
          InputError: it is missing, damaged, or of another format version.
        """
        path = pathlib.Path(directory) / FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format_version"] != FORMAT_VERSION:
                raise InputError(
                    f"{path} has format_version {stored['format_version']!r}, this svdjax reads "
                    f"{FORMAT_VERSION}"
                )
            stored = {"controls": {}, **stored}
            fields: dict[str, Any] = {name: stored[name] for name in cls.__dataclass_fields__}
            variants, controls = (
                {name: VariantResult.load(one) for name, one in stored[key].items()}
                for key in ("variants", "controls")
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path} is missing or damaged ({type(error).__name__}: {error}); run the sweep "
                "again in a new workdir"
            ) from error
        return cls(**{**_numbers(fields), "variants": variants, "controls": controls})


def _numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """NaN for what JSON holds as null."""
    return {name: math.nan if value is None else value for name, value in fields.items()}
