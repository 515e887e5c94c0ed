"""deepseek-math-7b-base and what was trained from it (arXiv 2509.17866, Table 10, RL by GRPO).

    python -m svdjax.sweep --config=configs/deepseek_math_7b.py

Downloads the checkpoints from the Hugging Face hub. `--dry_run` tells shapes, memory and time of
those that are in its cache already, and names the others.
Expected: near-uniform scaling and a small NF, as in the paper's appendix E; it tabulates no values.
"""

from svdjax.options import default_config, parse_argument

BASE = "deepseek-ai/deepseek-math-7b-base"


def get_config(argument=None):
    """The paper's pairs with deepseek-math-7b-base as base."""
    parse_argument(argument, known=())
    pairs = {
        "base-rl": {"base": BASE, "post": "deepseek-ai/deepseek-math-7b-rl"},
    }
    return default_config("deepseek_math_7b", pairs)
