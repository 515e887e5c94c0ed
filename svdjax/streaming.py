"""Settings of reading hub ids without downloading their weights. Imports no numpy and no jax."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax.fields import setting


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Whether the weights of hub ids are fetched as they are read, and how much of them is kept."""

    stream: bool = setting(
        False,
        "Fetch the tensors of hub ids as they are read, at one commit, instead of downloading the "
        "models first; only what is small (configuration, index, tokenizer) is downloaded.",
    )
    stream_cache_bytes: int = setting(
        0,
        "Most bytes of disk for what was streamed and may be read again, by later stages for "
        "example; 0 keeps none. It is gone when the command ends.",
        least=0,
        expected="a number of bytes, or 0 for none",
    )
