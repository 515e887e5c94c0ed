"""Flags of the commands that run a model, beside their own."""

from __future__ import annotations

from typing import Any

from absl import flags

from svdjax.engine.behaviour.model_options import DTYPES, PROMPT_FORMATS, ModelOptions

_SYSTEM = flags.DEFINE_string(
    "system", None, "A system prompt in the place of the paper's; empty for none."
)
_FORMAT = flags.DEFINE_enum(
    "prompt_format",
    ModelOptions.prompt_format,
    list(PROMPT_FORMATS),
    "chat: the model's chat template. plain: system prompt, question and an empty line, for models "
    "without one.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype", ModelOptions.dtype, list(DTYPES), "Dtype of weights and computation."
)
_DEVICES = flags.DEFINE_integer("devices", 0, "Devices to use; 0 takes all.")
_TENSOR = flags.DEFINE_integer(
    "tensor_parallel",
    ModelOptions.tensor_parallel,
    "How many devices hold the model together; the others hold copies, and share the batch.",
)


def given() -> dict[str, Any]:
    """Their values, as the fields of `ModelOptions`."""
    return {flag.name: flag.value for flag in (_SYSTEM, _FORMAT, _DTYPE, _DEVICES, _TENSOR)}
