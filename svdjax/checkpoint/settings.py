"""config.json of a checkpoint whose weights are compared, whatever the decoder makes of it."""

from __future__ import annotations

from svdjax.checkpoint.config import ModelConfig, config_from
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError

# What the decoder needs and the shapes of the weights do not depend on.
_DECODER_ONLY = (
    *("rope_theta", "rope_scaling", "rope_parameters", "hidden_act", "hidden_activation"),
)


def read_config(checkpoint: Checkpoint) -> tuple[ModelConfig, list[str]]:
    """The configuration as far as the weights depend on it.

    A rotary scaling or an activation that the decoder does not know is no reason not to compare
    weights: it is noted and left aside.

    Returns:
        The configuration and notes.

    Raises:
        InputError: config.json makes no sense as a model of its family.
    """
    where = str(checkpoint.home / "config.json")
    try:
        return config_from(checkpoint.config, where), []
    except InputError as error:
        fields = {k: v for k, v in checkpoint.config.items() if k not in _DECODER_ONLY}
        if len(fields) == len(checkpoint.config):
            raise
        config = config_from(fields, where)
        return config, [f"the decoder cannot run {checkpoint.path}: {error}"]
