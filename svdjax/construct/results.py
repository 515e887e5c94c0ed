"""Results of the constructions stage for a pair: constructions.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from svdjax.construct.changes import Change
from svdjax.engine.store import ADDED, Results


@dataclass(frozen=True)
class VariantResult:
    """One constructed model, or a control of one.

    Attributes:
        name: Name of the variant, see `svdjax.construct.recipes.VARIANTS`; of a control, see
            `svdjax.construct.controls`.
        construction: ``eq9`` to ``eq16``.
        modules: ``self_attn``, ``mlp`` or ``all``.
        signs: ``raw`` or ``aligned`` where it depends on them, else empty.
        title: A few words.
        change: ||new - post||_F / ||post||_F of all edited matrices together, as stored.
        projections: The same and more by projection.
        loss: Next-token cross-entropy on the held-out text, nats per token; NaN without a text, or
            where the model's outputs are not finite.
        kl: Mean KL(post || variant) of the next-token distributions, nats per token; NaN where the
            loss is.
        agreement: Percentage of tokens with the same likeliest prediction as post; NaN where the
            loss is.
        seconds: What it took.
        saved: Directory of the checkpoint, relative to the pair's; empty unless it was asked for.
        surviving: Share of the change of post-training that is left, mean over the matrices, see
            `svdjax.spectral.constructions.surviving_share`.
        surviving_predicted: What a restoration leaves of a small random change, mean over the
            matrices; NaN for other models.
        control: ``noise``, ``interpolated`` or ``reverted``; empty for a construction.
        control_of: The variant whose distances a control has; empty for ``reverted``.
        at_base: How many matrices of ``interpolated`` are base's own, as the construction moved
            them farther than base lies; 0 for other models.
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
    surviving: float = field(default=math.nan, metadata=ADDED)
    surviving_predicted: float = field(default=math.nan, metadata=ADDED)
    control: str = field(default="", metadata=ADDED)
    control_of: str = field(default="", metadata=ADDED)
    at_base: int = field(default=0, metadata=ADDED)


@dataclass(frozen=True)
class ConstructionResults(Results):
    """All constructed models of one pair.

    Attributes:
        pair: Name of the pair.
        base: As the user wrote it.
        post: The model that is edited, as the user wrote it.
        other: Another post model, for eq. 12; empty if there is none.
        text: Path of the held-out text; empty if there is none.
        texts: How many texts it holds.
        tokens: How many of its tokens count.
        original_loss: The loss of post on it, nats per token; NaN without a text.
        variants: By name, in the order of `svdjax.construct.recipes.VARIANTS`.
        left_out: Variants that were asked for and could not be made, with the reason.
        controls: The controls of the variants by name, see `svdjax.construct.controls`; empty where
            none were asked for.
    """

    FILE = "constructions.json"

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
    controls: dict[str, VariantResult] = field(default_factory=dict, metadata=ADDED)

    def control(self, variant: VariantResult, kind: str) -> VariantResult | None:
        """Control of a variant; None where there is none."""
        sought = (kind, "" if kind == "reverted" else variant.name, variant.modules)
        for control in self.controls.values():
            if (control.control, control.control_of, control.modules) == sought:
                return control
        return None
