"""Configurations of real models, as their config.json files state them, and their sizes.

Only what decides shapes and the decoder's options is kept. The longrope factors are stand-ins of
the right number.
"""

from __future__ import annotations

from typing import Any

_QWEN: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "vocab_size": 152064,
}
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
_GEMMA: dict[str, Any] = {
    "model_type": "gemma2",
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "torch_dtype": "float32",
    "vocab_size": 256000,
}
_PHI: dict[str, Any] = {
    "model_type": "phi3",
    "hidden_act": "silu",
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
_GRANITE: dict[str, Any] = {
    "model_type": "granite",
    "attention_bias": False,
    "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12.0,
    "hidden_act": "silu",
    "logits_scaling": 16.0,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 49155,
}


def _sizes(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


# name -> (config.json, number of parameters as the published files hold them)
REAL: dict[str, tuple[dict[str, Any], int]] = {
    "Qwen2.5-1.5B": (
        _QWEN
        | _sizes(1536, 8960, 28, 12, 2)
        | {"vocab_size": 151936, "tie_word_embeddings": True, "max_window_layers": 28},
        1_543_714_304,
    ),
    "Qwen2.5-7B": (
        _QWEN | _sizes(3584, 18944, 28, 28, 4) | {"max_window_layers": 28},
        7_615_616_512,
    ),
    "Qwen2.5-14B": (
        _QWEN | _sizes(5120, 13824, 48, 40, 8) | {"max_window_layers": 48, "rms_norm_eps": 1e-5},
        14_770_033_664,
    ),
    "Qwen2.5-72B": (
        _QWEN | _sizes(8192, 29568, 80, 64, 8) | {"max_window_layers": 80, "rms_norm_eps": 1e-5},
        72_706_203_648,
    ),
    "Llama-3.1-8B": (_LLAMA | _sizes(4096, 14336, 32, 32, 8), 8_030_261_248),
    "Llama-3.1-70B": (_LLAMA | _sizes(8192, 28672, 80, 64, 8), 70_553_706_496),
    "Mistral-7B-v0.1": (
        {
            "model_type": "mistral",
            "hidden_act": "silu",
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": 32000,
            **_sizes(4096, 14336, 32, 32, 8),
        },
        7_241_732_096,
    ),
    "gemma-2-2b": (
        _GEMMA
        | _sizes(2304, 9216, 26, 8, 4)
        | {"head_dim": 256, "query_pre_attn_scalar": 256, "cache_implementation": "hybrid"},
        2_614_341_888,
    ),
    "gemma-2-27b": (
        _GEMMA | _sizes(4608, 36864, 46, 32, 16) | {"head_dim": 128, "query_pre_attn_scalar": 144},
        27_227_128_320,
    ),
    "Phi-3-mini-4k": (
        _PHI
        | _sizes(3072, 8192, 32, 32, 32)
        | {"max_position_embeddings": 4096, "sliding_window": 2047, "rope_scaling": None},
        3_821_079_552,
    ),
    "Phi-3-medium-128k": (
        _PHI
        | _sizes(5120, 17920, 40, 40, 10)
        | {
            "max_position_embeddings": 131072,
            "sliding_window": 131072,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0 + 0.05 * i for i in range(64)],
                "long_factor": [1.0 + i for i in range(64)],
            },
        },
        13_960_238_080,
    ),
    # The heads are twice as wide as the model.
    "Qwen3-0.6B": (
        _QWEN
        | _sizes(1024, 3072, 28, 16, 8)
        | {
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "vocab_size": 151936,
        },
        596_049_920,
    ),
    "OLMo-2-1124-7B": (
        {
            "model_type": "olmo2",
            "attention_bias": False,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 500000,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "vocab_size": 100352,
            **_sizes(4096, 11008, 32, 32, 32),
        },
        7_298_617_344,
    ),
    "gemma-3-1b": (
        {
            "model_type": "gemma3_text",
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": None,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 32768,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-6,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "torch_dtype": "bfloat16",
            "vocab_size": 262144,
            **_sizes(1152, 6912, 26, 4, 1),
        },
        999_885_952,
    ),
    "granite-3.1-8b": (_GRANITE | _sizes(4096, 12800, 40, 32, 8), 8_170_848_256),
    "Mixtral-8x7B": (
        {
            "model_type": "mixtral",
            "hidden_act": "silu",
            "max_position_embeddings": 32768,
            "num_experts_per_tok": 2,
            "num_local_experts": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": 32000,
            **_sizes(4096, 14336, 32, 32, 8),
        },
        46_702_792_704,
    ),
    "Qwen1.5-MoE-A2.7B": (
        _QWEN
        | _sizes(2048, 5632, 24, 16, 16)
        | {
            "model_type": "qwen2_moe",
            "decoder_sparse_step": 1,
            "max_position_embeddings": 8192,
            "max_window_layers": 21,
            "moe_intermediate_size": 1408,
            "norm_topk_prob": False,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "shared_expert_intermediate_size": 5632,
            "vocab_size": 151936,
        },
        14_315_784_192,
    ),
    "Qwen3-30B-A3B": (
        _QWEN
        | _sizes(2048, 6144, 48, 32, 4)
        | {
            "model_type": "qwen3_moe",
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "max_window_layers": 48,
            "mlp_only_layers": [],
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "sliding_window": None,
            "vocab_size": 151936,
        },
        30_532_122_624,
    ),
    "OLMoE-1B-7B": (
        {
            "model_type": "olmoe",
            "attention_bias": False,
            "clip_qkv": None,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "norm_topk_prob": False,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": 50304,
            **_sizes(2048, 1024, 16, 16, 16),
        },
        6_919_161_856,
    ),
}
