"""DeepSeek-R1-Distill-Qwen-7B and its RL-tuned child (arXiv 2509.17866, Table 10, RL by GRPO).

    python -m svdjax.sweep --config=configs/deepseek_r1_distill_qwen_7b.py

Downloads the checkpoints from the Hugging Face hub. `--dry_run` tells shapes, memory and time of
those that are in its cache already, and names the others.
Expected: near-uniform scaling and a small NF, as in the paper's appendix E; it tabulates no values.
"""

from svdjax.options import default_config, parse_argument

BASE = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"


def get_config(argument=None):
    """The paper's pairs with DeepSeek-R1-Distill-Qwen-7B as base."""
    parse_argument(argument, known=())
    pairs = {
        "base-rl": {"base": BASE, "post": "nvidia/AceMath-RL-Nemotron-7B"},
    }
    return default_config("deepseek_r1_distill_qwen_7b", pairs)
