"""The reference family that ships with svdjax: needs no argument and no network.

Four small models trained by this project (see svdjax/reference/README.md): `base`, `base_prime`
(pre-trained apart from it), `instruct` and `reasoning` (both fine-tuned from `base`).

    python -m svdjax.sweep --config=configs/reference.py

Expected: under a minute on two cores. The two post models stay far below the unrelated level of
NF, `base_prime` lies at it.
"""

from svdjax import reference
from svdjax.options import default_config, parse_argument

PAIRS = (
    ("base", "base_prime"),
    ("base", "instruct"),
    ("base", "reasoning"),
    ("instruct", "reasoning"),
)


def get_config(argument=None):
    """Every pair of the family that the paper compares."""
    parse_argument(argument, known=())
    return default_config(
        "reference",
        {
            f"{base}-{post}": {"base": str(reference.path(base)), "post": str(reference.path(post))}
            for base, post in PAIRS
        },
    )
