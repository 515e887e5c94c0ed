"""The reference family that ships with svdjax: needs no argument and no network.

Four small models trained by this project (see svdjax/reference/README.md): `base`, `base_prime`
(pre-trained apart from it), `instruct` and `reasoning` (both fine-tuned from `base`).

    python -m svdjax.sweep --config=configs/reference.py

Expected: about three minutes on two cores. The two post models stay far below the unrelated level
of NF, `base_prime` lies at it. Of `instruct` and `reasoning` all constructed models are made too,
and judged on held-out answers in the model's own format.
"""

from svdjax import reference
from svdjax.options import default_config, parse_argument

PAIRS = (
    ("base", "base_prime"),
    ("base", "instruct"),
    ("base", "reasoning"),
    ("instruct", "reasoning"),
)
OTHERS = {"instruct": "reasoning", "reasoning": "instruct"}


def get_config(argument=None):
    """Every pair of the family that the paper compares."""
    parse_argument(argument, known=())
    pairs = {}
    for base, post in PAIRS:
        sides = {"base": str(reference.path(base)), "post": str(reference.path(post))}
        constructed = base == "base" and post in OTHERS
        if constructed:
            sides["other"] = str(reference.path(OTHERS[post]))
            sides["text"] = str(reference.text_path(post))
        pairs[f"{base}-{post}"] = sides | {"constructed": constructed}
    return default_config("reference", pairs, stages=("spectra", "constructions", "report"))
