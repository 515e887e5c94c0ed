"""What a probe is asked to be: the flags, checked as far as they can be without jax."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from svdjax.constructions.selection import Layers
from svdjax.engine.behaviour.model_options import ModelOptions
from svdjax.engine.faults import choice_faults, least_faults, missing_faults
from svdjax.errors import InputError

SAMPLES = ("prompt", "position")


def cka_words(samples: str, debiased: bool) -> str:
    """What a kind of CKA is called wherever it is printed.

    Eq. 17 averages hidden states over the prompts at each position; prompts as samples are a
    choice of svdjax.

    Args:
      samples: one of `SAMPLES`.
      debiased: whether HSIC is the debiased estimate; the paper's is not.
    """
    over = {
        "prompt": "CKA over prompts (svdjax's samples, not eq. 17's)",
        "position": "CKA over positions (eq. 17)",
    }[samples]
    return "debiased " * debiased + over


@dataclass(frozen=True, kw_only=True)
class Probing:
    """What is probed, by default as in the paper but for the samples of CKA (`cka_words`)."""

    prompts: str = ""
    limit: int = 100
    samples: str = "prompt"
    debiased: bool = False

    def probing_faults(self) -> list[str]:
        """Everything that is wrong with it, one sentence each."""
        return least_faults(self, {"limit": 0}) + choice_faults(self, {"samples": SAMPLES})

    @property
    def kind(self) -> str:
        """Which CKA is reported, as cka.npz names it."""
        return self.samples + ("_debiased" if self.debiased else "")


@dataclass(frozen=True)
class ProbeJob(Probing, ModelOptions):
    """Some models on some prompts.

    The flags of ``python -m svdjax.probe`` have the fields' names and explain them.

    Raises:
      InputError: the values are wrong; everything at once.
    """

    models: tuple[str, ...]
    out: str
    blocks: str = ""
    maps: bool = True
    chosen: Layers = field(init=False)

    def __post_init__(self) -> None:
        found = []
        if not self.models or not all(self.models):
            found.append("--models: expected directories or hub ids, separated by commas")
        found += missing_faults(self, ("prompts", "out"))
        found += self.probing_faults()
        try:
            object.__setattr__(self, "chosen", Layers.parse(self.blocks))
        except InputError as error:
            found.append(f"--blocks: {error}")
        found += self.model_faults()
        if found:
            raise InputError(" | ".join(found))


def model_names(sources: Iterable[str]) -> list[str]:
    """A name for each model: its last part, with -2, -3 where names repeat."""
    names: list[str] = []
    for source in sources:
        stem = source.rstrip("/").rpartition("/")[2] or "model"
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names
