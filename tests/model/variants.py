"""The tiny models that stand for every option of the decoder: data, shared by tests and goldens."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Variant:
    """A tiny checkpoint and the tokens it is asked about.

    Attributes:
        family: One of `tiny.FAMILIES`.
        overrides: Fields of config.json that differ from the family's tiny default.
        length: Tokens per sequence: beyond every window and original context length, unless the
            variant is about short sequences.
    """

    family: str
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    length: int = 32

    def tokens(self, batch: int = 1) -> np.ndarray:
        """[batch, length] int32."""
        draw = np.random.default_rng(self.length + batch)
        return draw.integers(0, 128, (batch, self.length)).astype(np.int32)


VARIANTS: dict[str, Variant] = {
    "qwen2": Variant("qwen2"),
    "qwen2_windows": Variant(
        "qwen2", {"use_sliding_window": True, "tie_word_embeddings": False, "rope_scaling": None}
    ),
    "llama": Variant("llama"),
    "llama_linear": Variant(
        "llama",
        {
            "rope_scaling": {"type": "linear", "factor": 4.0},
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "head_dim": 20,
            # Large enough to matter: on ordinary values the term is invisible.
            "rms_norm_eps": 0.05,
        },
    ),
    "mistral": Variant("mistral"),
    "mistral_unwindowed": Variant(
        "mistral", {"sliding_window": None, "head_dim": None, "num_key_value_heads": 1}
    ),
    "gemma2": Variant("gemma2"),
    "gemma2_uncapped": Variant(
        "gemma2",
        {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "phi3": Variant("phi3"),
    "phi3_short": Variant("phi3", length=14),
    "phi3_plain": Variant(
        "phi3",
        {"rope_scaling": None, "sliding_window": None, "partial_rotary_factor": 1.0},
    ),
    "qwen3": Variant("qwen3", {"use_sliding_window": True}),
    "olmo2": Variant("olmo2"),
    "gemma3_text": Variant("gemma3_text"),
    "granite": Variant("granite"),
    "mixtral": Variant("mixtral"),
    "mixtral_windows": Variant("mixtral", {"sliding_window": 8, "head_dim": 24}),
    "qwen2_moe": Variant("qwen2_moe", {"use_sliding_window": True}),
    "qwen3_moe": Variant("qwen3_moe"),
    "olmoe": Variant("olmoe"),
    "llama_yarn": Variant(
        "llama",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 60,
                "beta_fast": 1.2,
                "beta_slow": 0.27,
            }
        },
    ),
    "qwen3_moe_yarn": Variant(
        "qwen3_moe",
        {
            "norm_topk_prob": False,
            "use_sliding_window": True,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 24,
                "mscale": 1.4,
                "mscale_all_dim": 0.7,
                "truncate": False,
                "beta_slow": 0.5,
            },
        },
    ),
    "llama_dynamic": Variant(
        "llama",
        {
            "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
            "max_position_embeddings": 16,
        },
    ),
}
