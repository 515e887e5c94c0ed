"""Qwen2.5-Math-7B and what was trained from it (arXiv 2509.17866, Table 9).

    python -m svdjax.sweep --config=configs/qwen2_5_math_7b.py

Downloads the checkpoints from the Hugging Face hub. `--dry_run` tells shapes, memory and time of
those that are in its cache already, and names the others.
Expected: the scaling factors of the paper's Table 3, which the report prints beside the
measured ones.
"""

from svdjax.options import default_config, parse_argument

BASE = "Qwen/Qwen2.5-Math-7B"


def get_config(argument=None):
    """The paper's pairs with Qwen2.5-Math-7B as base."""
    parse_argument(argument, known=())
    pairs = {
        "base-base_prime": {
            "base": BASE,
            "post": "Qwen/Qwen2.5-7B",
            "paper": "Qwen2.5-Math-7B/base'",
        },
        "base-instruct": {
            "base": BASE,
            "post": "Qwen/Qwen2.5-Math-7B-Instruct",
            "paper": "Qwen2.5-Math-7B/instruct",
        },
        "base-reasoning": {
            "base": BASE,
            "post": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
            "paper": "Qwen2.5-Math-7B/reasoning",
        },
    }
    return default_config("qwen2_5_math_7b", pairs)
