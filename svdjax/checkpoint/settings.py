"""config.json of a checkpoint whose weights are compared, whatever the decoder makes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from svdjax.checkpoint.canonical import text_config
from svdjax.checkpoint.config import ModelConfig, config_from
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError

# What the decoder needs and the shapes of the weights do not depend on.
_DECODER_ONLY = (
    *("rope_theta", "rope_scaling", "rope_parameters", "hidden_act", "hidden_activation"),
)
_EMBEDDING = "model.embed_tokens.weight"
# What they do depend on.
_SHAPES = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias", "qkv_bias", "num_experts", "num_local_experts"),
    *("moe_intermediate_size", "shared_expert_intermediate_size"),
)


def _of_embedding(checkpoint: Checkpoint, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of embedding and head that make no sense, as the tensors have them."""
    changed: dict[str, Any] = {}
    if type(fields.get("vocab_size")) is not int and _EMBEDDING in checkpoint:
        changed["vocab_size"] = checkpoint.spec(_EMBEDDING).shape[0]
    if not isinstance(fields.get("tie_word_embeddings", False), bool):
        changed["tie_word_embeddings"] = "lm_head.weight" not in checkpoint
    return changed


def read_config(checkpoint: Checkpoint) -> tuple[ModelConfig, list[str]]:
    """The configuration as far as the weights depend on it.

    What the decoder does not know, or what makes no sense in fields that no shape depends on, is
    no reason not to compare weights: it is noted and left aside. Of a model with more parts than
    its text part, that one's is read.

    Returns:
        The configuration and notes.

    Raises:
        InputError: config.json makes no sense as a model of its family.
    """
    where, raw = str(checkpoint.home / "config.json"), text_config(checkpoint)
    try:
        return config_from(raw, where), []
    except InputError as error:
        notes = [f"the decoder cannot run {checkpoint.path}: {error}"]
        fields = {key: value for key, value in raw.items() if key not in _DECODER_ONLY}
        # How many experts a token goes through says nothing of their number.
        shapes = {key: value for key, value in raw.items() if key in _SHAPES}
        shapes |= _of_embedding(checkpoint, shapes)
        for tried in (fields, shapes | {"num_experts_per_tok": 1}):
            with contextlib.suppress(InputError):
                return config_from(tried, where), notes
        raise
