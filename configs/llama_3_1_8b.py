"""Llama-3.1-8B and what was trained from it (arXiv 2509.17866, Table 9).

    python -m svdjax.sweep --config=configs/llama_3_1_8b.py

Downloads the checkpoints from the Hugging Face hub. `--dry_run` tells shapes, memory and time of
those that are in its cache already, and names the others.
Expected: the scaling factors of the paper's Table 3, which the report prints beside the
measured ones.
"""

from svdjax.options import default_config, parse_argument

BASE = "meta-llama/Llama-3.1-8B"


def get_config(argument=None):
    """The paper's pairs with Llama-3.1-8B as base."""
    parse_argument(argument, known=())
    pairs = {
        "base-instruct": {
            "base": BASE,
            "post": "meta-llama/Llama-3.1-8B-Instruct",
            "paper": "Llama-3.1-8B/instruct",
        },
        "base-reasoning": {
            "base": BASE,
            "post": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "paper": "Llama-3.1-8B/reasoning",
        },
    }
    return default_config("llama_3_1_8b", pairs)
