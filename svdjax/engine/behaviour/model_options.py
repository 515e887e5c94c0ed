"""How a model is asked and run, whatever for: the part that the commands share."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax.engine.faults import choice_faults, least_faults

PROMPT_FORMATS = ("chat", "plain")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Flags that every command which runs a model has; `svdjax.model_flags` explains them."""

    system: str | None = None
    prompt_format: str = "chat"
    dtype: str = "float32"
    devices: int = 0
    tensor_parallel: int = 1

    def model_faults(self) -> list[str]:
        """Everything that is wrong with them, one sentence each."""
        return least_faults(self, {"devices": 0, "tensor_parallel": 1}) + choice_faults(
            self, {"prompt_format": PROMPT_FORMATS, "dtype": DTYPES}
        )
