"""The controls of constructed models as data: models as far from post, or of base itself.

A construction moves every matrix of a module from W_post to W' and says nothing by itself: what it
does to a model may be what any change of its size does, or what taking that much of post-training
away does. Beside each stand three models that edit the same matrices (docs/mathematics.md, 5):

- ``noise``: as far from W_post, in a random direction;
- ``interpolated``: as far from W_post, straight towards W_base;
- ``reverted``: W_base, the same for all constructions of a module.

Imports no jax.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from svdjax.construct.recipes import MODULES, SHORT, VARIANTS, Variant
from svdjax.errors import InputError, did_you_mean

CONTROLS: Mapping[str, str] = MappingProxyType(
    {
        "noise": "W_post + ‖W′ − W_post‖_F · G / ‖G‖_F, G normal",
        "interpolated": "W_base + s (W_post − W_base), s so that its distance to W_post is that of "
        "W′; 0 where base is nearer",
        "reverted": "W_base",
    }
)
"""The formula of each control, W′ being the construction's matrix."""

_TITLES = {
    "noise": "noise of the size of {}",
    "interpolated": "base + sΔ as far as {}",
    "reverted": "reverted to base, {}",
}


def get_control(name: str) -> str:
    """Returns the name of a control.

    Raises:
        InputError: There is none of that name.
    """
    if name not in CONTROLS:
        hint = did_you_mean(name, CONTROLS)
        raise InputError(f"control {name!r}: expected one of {', '.join(CONTROLS)}{hint}")
    return name


@dataclass(frozen=True)
class Control:
    """A control of one constructed model, or of all that edit a module.

    Attributes:
        kind: Key of `CONTROLS`.
        modules: ``self_attn``, ``mlp`` or ``all``.
        variant: Whose distances it has; None for ``reverted``, which has none.
    """

    kind: str
    modules: str
    variant: Variant | None = None

    @property
    def name(self) -> str:
        """What results, journals and reports call it."""
        place = self.variant.name if self.variant else ""
        return f"{place}_{self.kind}" if place else f"reverted_{SHORT[self.modules]}"

    @property
    def title(self) -> str:
        """A few words for tables and figures."""
        words = self.variant.title if self.variant else MODULES[self.modules]
        return _TITLES[self.kind].format(words)


def noise_seeds(
    seed: int, site: str, layers: Iterable[int], experts: Sequence[int] = ()
) -> list[tuple[int, int, int]]:
    """What the direction of ``noise`` is drawn from, for each matrix of a linear layer.

    It depends neither on the grouping nor on what else is chosen, so that commands, sweeps and
    pytrees give the same.

    Args:
        seed: Chosen by the user, from 0.
        site: Dotted name of the linear layer inside a block, such as ``self_attn.q_proj``.
        layers: Numbers of the blocks.
        experts: Numbers of the experts in each block, where the linear layer is one of experts.
    """
    numbered = [f"{site}.{expert}" for expert in experts] or [site]
    tags = [zlib.crc32(name.encode("utf-8", "replace")) for name in numbered]
    return [(seed, tag, layer) for layer in layers for tag in tags]


def controls_of(variant: Variant, kinds: Iterable[str]) -> tuple[Control, ...]:
    """The controls of a variant, in the order of `CONTROLS`."""
    return tuple(
        Control(kind, variant.modules, None if kind == "reverted" else variant)
        for kind in CONTROLS
        if kind in tuple(kinds)
    )


ALL_CONTROLS: Mapping[str, Control] = MappingProxyType(
    {one.name: one for each in VARIANTS.values() for one in controls_of(each, CONTROLS)}
)
"""Every control that there can be, by name; those of a module once."""
