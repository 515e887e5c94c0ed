"""Do two models share an origin? Alignment from the weights alone, then NF and its test.

`canonical` shares scales out evenly, `compare_layers` undoes what is left of a disguise (orders of
neurons and heads, phases, bases, a rotated residual stream) and measures, `pool` adds up.
"""

from svdjax.descent.aligned import Factored, compare_layers
from svdjax.descent.blocks import assign_blocks, spectral_distance
from svdjax.descent.canonical import canonical
from svdjax.descent.disguise import ROUGH, disguise
from svdjax.descent.disguises import DISGUISES
from svdjax.descent.layer import PROJECTIONS, Layer, read_layer
from svdjax.descent.residual import Grams, from_grams, from_matches, nearest_rotation
from svdjax.descent.statistic import (
    Agreement,
    Pooled,
    agreement,
    along_leading,
    leading_count,
    log10_p,
    outlier,
    p_value,
    polar_stack,
    pool,
)

__all__ = [
    "DISGUISES",
    "PROJECTIONS",
    "ROUGH",
    "Agreement",
    "Factored",
    "Grams",
    "Layer",
    "Pooled",
    "agreement",
    "along_leading",
    "assign_blocks",
    "canonical",
    "compare_layers",
    "disguise",
    "from_grams",
    "from_matches",
    "leading_count",
    "log10_p",
    "nearest_rotation",
    "outlier",
    "p_value",
    "polar_stack",
    "pool",
    "read_layer",
    "spectral_distance",
]
