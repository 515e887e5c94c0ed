"""How the null models are drawn: the leaves ``config.nulls``, checked without jax."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax.engine.faults import least_faults


@dataclass(frozen=True, kw_only=True)
class Nulls:
    """How much is drawn; the leaves are explained in `svdjax.options`."""

    draws: int = 19
    layers: int = 3
    seed: int = 0

    def null_faults(self) -> list[str]:
        """Everything that is wrong with it, one sentence each."""
        found = least_faults(self, {"draws": 0, "layers": 0, "seed": 0})
        if self.seed >= 2**32:
            found.append(f"--seed={self.seed}: expected less than 2^32")
        return found
