"""Mistral-7B-v0.1 and what was trained from it (arXiv 2509.17866, Table 10, SFT).

    python -m svdjax.sweep --config=configs/mistral_7b.py

Downloads the checkpoints from the Hugging Face hub. `--dry_run` tells shapes, memory and time of
those that are in its cache already, and names the others.
Expected: near-uniform scaling and a small NF, as in the paper's appendix E; it tabulates no values.
"""

from svdjax.options import default_config, parse_argument

BASE = "mistralai/Mistral-7B-v0.1"


def get_config(argument=None):
    """The paper's pairs with Mistral-7B-v0.1 as base."""
    parse_argument(argument, known=())
    pairs = {
        "base-instruct": {"base": BASE, "post": "mistralai/Mistral-7B-Instruct-v0.1"},
    }
    return default_config("mistral_7b", pairs)
