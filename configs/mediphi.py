"""MediPhi and what was trained from it (arXiv 2509.17866, Table 10, SFT).

    python -m svdjax.sweep --config=configs/mediphi.py

Downloads the checkpoints from the Hugging Face hub. `--dry_run` tells shapes, memory and time of
those that are in its cache already, and names the others.
Expected: near-uniform scaling and a small NF, as in the paper's appendix E; it tabulates no values.
"""

from svdjax.options import default_config, parse_argument

BASE = "microsoft/MediPhi"


def get_config(argument=None):
    """The paper's pairs with MediPhi as base."""
    parse_argument(argument, known=())
    pairs = {
        "base-instruct": {"base": BASE, "post": "microsoft/MediPhi-Instruct"},
    }
    return default_config("mediphi", pairs)
