"""Settings of a probe, checked as far as they can be without jax."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from svdjax import fields
from svdjax.construct.selection import Layers
from svdjax.errors import InputError
from svdjax.fields import setting
from svdjax.text.options import AdapterOptions, DecoderOptions, DeviceOptions

_PROMPTS = 'A .jsonl with "prompt" or "question" in every line, or text, a prompt a line.'
SAMPLES = ("prompt", "position")
LINEARISED_PASSES = 60
"""Forward passes that linearising takes: a derivative is two or three, of a dozen parts."""


def cka_label(samples: str, debiased: bool) -> str:
    """The name of a kind of CKA wherever it is printed.

    Eq. 17 averages hidden states over the prompts at each position; prompts as samples are a
    choice of svdjax.

    Args:
        samples: One of `SAMPLES`.
        debiased: Whether HSIC is the debiased estimate; the paper's is not.
    """
    over = {
        "prompt": "CKA over prompts (svdjax's samples, not eq. 17's)",
        "position": "CKA over positions (eq. 17)",
    }[samples]
    return "debiased " * debiased + over


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Prompts and CKA of a probe, by default the paper's but for the samples (`cka_label`)."""

    prompts: str = setting("", _PROMPTS)
    limit: int = setting(
        100,
        "Take the first prompts only, by default as many as the paper's; 0 takes all.",
        least=0,
    )
    samples: str = setting(
        "prompt",
        "Which CKA is reported: a sample is a prompt (our choice), or a position (eq. 17).",
        choices=SAMPLES,
    )
    debiased: bool = setting(False, "Report the debiased CKA; the paper's is biased.")
    linearised: bool = setting(
        False,
        "Also measure how much of the change of the logits is first order in that of the weights: "
        "every other model against the first one linearised, in a sweep post against base. It "
        "takes about 60 times as long as reading the prompts, and three models' memory in float32.",
    )

    @property
    def kind(self) -> str:
        """The reported CKA, as cka.npz names it."""
        return self.samples + ("_debiased" if self.debiased else "")


@dataclass(frozen=True)
class ProbeJob(ProbeOptions, DecoderOptions, DeviceOptions, AdapterOptions):
    """Models and prompts: the flags of ``python -m svdjax.probe``.

    Raises:
        InputError: Values are wrong; every fault at once.
    """

    models: tuple[str, ...] = setting(
        help="Models, separated by commas: directories or hub ids org/name[@revision]."
    )
    prompts: str = setting(help=_PROMPTS)
    out: str = setting(help="Directory for the results.")
    blocks: str = setting(
        "", "Blocks whose entropy is drawn, such as 0,3,5-8. Default: all; all are stored."
    )
    maps: bool = setting(True, "Also keep and draw attention maps of the first prompt.")
    chosen: Layers = field(init=False)

    def __post_init__(self) -> None:
        faults = fields.faults(self)
        if not all(self.models):
            faults.append("--models: expected directories or hub ids, separated by commas")
        try:
            object.__setattr__(self, "chosen", Layers.parse(self.blocks))
        except InputError as error:
            faults.append(f"--blocks: {error}")
        if faults:
            raise InputError(" | ".join(faults))


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
