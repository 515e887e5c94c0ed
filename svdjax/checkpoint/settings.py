"""config.json of a checkpoint that may be anything: bounds first, then transformers' reading."""

from __future__ import annotations

from typing import Any

from svdjax.checkpoint.config import ModelConfig, model_config
from svdjax.checkpoint.files import one_line
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError

# Far above any model; what allocates per layer or per size is bounded before it is tried.
_LIMITS = {
    "num_hidden_layers": 10_000,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 24,
    "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16,
    "head_dim": 1 << 16,
    "vocab_size": 1 << 28,
}
# What the decoder needs and the shapes of the weights do not depend on.
_DECODER_ONLY = ("rope_scaling", "rope_parameters", "hidden_act", "hidden_activation")


def read_config(checkpoint: Checkpoint) -> tuple[ModelConfig, list[str]]:
    """The configuration as far as the weights depend on it.

    A rotary scaling or an activation that the decoder does not know is no reason not to compare
    weights: it is noted and left aside.

    Returns:
        The configuration and notes.

    Raises:
        InputError: config.json makes no sense as a model of its family.
    """
    where = checkpoint.home / "config.json"
    for field, most in _LIMITS.items():
        value = checkpoint.config.get(field)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 0 < value <= most):
            shown = value if whole else repr(value)
            raise InputError(f"{where}: {field} is {shown}, expected a whole number in 1..{most}")
    try:
        return _converted(checkpoint.config, str(where)), []
    except InputError as error:
        fields = {k: v for k, v in checkpoint.config.items() if k not in _DECODER_ONLY}
        if len(fields) == len(checkpoint.config):
            raise
        config = _converted(fields, str(where))
        return config, [f"the decoder cannot run {checkpoint.path}: {error}"]


def _converted(config: dict[str, Any], where: str) -> ModelConfig:
    try:
        return model_config(config)
    except InputError as error:
        # model_config knows the content only: say which file it was.
        raise InputError(str(error).replace("config.json", where, 1)) from None
    # A field of a type nobody expects surfaces anywhere inside.
    except Exception as error:
        raise InputError(
            f"{where}: not a valid model configuration ({type(error).__name__}: {one_line(error)})"
        ) from None
