"""Seed-X-Instruct-7B and what was trained from it (arXiv 2509.17866, Table 10, RL by PPO).

    python -m svdjax.sweep --config=configs/seed_x_7b.py

Downloads the checkpoints from the Hugging Face hub. `--dry_run` tells shapes, memory and time of
those that are in its cache already, and names the others.
Expected: near-uniform scaling and a small NF, as in the paper's appendix E; it tabulates no values.
"""

from svdjax.options import default_config, parse_argument

BASE = "ByteDance-Seed/Seed-X-Instruct-7B"


def get_config(argument=None):
    """The paper's pairs with Seed-X-Instruct-7B as base."""
    parse_argument(argument, known=())
    pairs = {
        "base-rl": {"base": BASE, "post": "ByteDance-Seed/Seed-X-PPO-7B"},
    }
    return default_config("seed_x_7b", pairs)
