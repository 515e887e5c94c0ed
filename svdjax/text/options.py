"""Options of prompts, decoder and devices that the commands share."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax.fields import setting

PROMPT_FORMATS = ("chat", "plain")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class DecoderOptions:
    """Prompt format, dtype and sharding of a model that a command runs."""

    system: str | None = setting(
        None,
        "A system prompt in the place of the paper's; empty for none.",
    )
    prompt_format: str = setting(
        "chat",
        "chat: each model's chat template, in a sweep for a base without one that of post. plain: "
        "system prompt, question and an empty line, for models without one.",
        choices=PROMPT_FORMATS,
    )
    dtype: str = setting("float32", "Dtype of weights and computation.", choices=DTYPES)
    tensor_parallel: int = setting(
        1,
        "How many devices hold the model together; the others hold copies, and share the batch.",
        least=1,
    )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Number of devices of a command; in a sweep ``config.devices`` sets it for all stages."""

    devices: int = setting(0, "Devices to use; 0 takes all.", least=0)


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """Base of the LoRA adapters among a command's models; in a sweep that of the pair."""

    base: str = setting(
        "",
        "The model that LoRA adapters are merged into, where it is not the one that they name (a "
        "4-bit one, or none): directory or hub id.",
    )
