"""The parts of a model judged one by one: both modules of each layer, embeddings and head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svdjax.fingerprint.candidates import BY_EMBEDDINGS, Candidate
from svdjax.fingerprint.ends import Ends
from svdjax.fingerprint.statistic import Pooled, p_value, pool
from svdjax.fingerprint.verdict import RELATED, Thresholds, decide


@dataclass(frozen=True)
class Part:
    """One part of the suspect and what it has in common with the reference.

    Attributes:
      module: "self_attn", "mlp", "embeddings" or "head".
      reference: number of the reference's layer; None for embeddings and head.
      suspect: number of the suspect's layer; None for embeddings and head.
      pooled: its matrices as one.
      log10_p: decimal logarithm of its p-value, corrected for the numbers of parts and alignments.
      verdict: "related", "undecided" or "unrelated".
    """

    module: str
    reference: int | None
    suspect: int | None
    pooled: Pooled
    log10_p: float
    verdict: str

    @property
    def name(self) -> str:
        """What it is called: "layers.3.mlp" (the suspect's number), "embeddings" or "head"."""
        return self.module if self.suspect is None else f"layers.{self.suspect}.{self.module}"

    @property
    def distance(self) -> float:
        """1 - tr(I_orth) / r of its matrices: 0 same, about 1 unrelated."""
        return 1 - self.pooled.effect

    def content(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "part": self.name,
            "module": self.module,
            "reference": self.reference,
            "suspect": self.suspect,
            "verdict": self.verdict,
            "distance": self.distance,
            "z": self.pooled.z,
            "p_value": p_value(self.log10_p),
            "log10_p_value": self.log10_p,
        }


def judge_parts(candidate: Candidate, ends: Ends, thresholds: Thresholds, tried: int) -> list[Part]:
    """Every part under one alignment: layers in the suspect's order, then embeddings and head.

    Embeddings of models of alike data resemble one another up to a rotation, and so do heads. So
    they are compared as they are or under a rotation that they had no share in; where it was found
    from them, only if it makes layers agree, each half of the tokens then under the one that the
    other half gives.

    Args:
      candidate: the alignment, measured.
      ends: sums over the rows of embeddings and heads.
      thresholds: where the words change.
      tried: how many alignments were tried.
    """
    layers = {
        (module, here, there): pool([agreements])
        for number, (here, there) in enumerate(candidate.blocks)
        for module, agreements in candidate.modules(number).items()
    }
    correction = math.log10(tried * (len(layers) + len(ends.sums)))

    def judged(module: str, here: int | None, there: int | None, result: Pooled) -> Part:
        log10 = min(0.0, result.log10_p + correction)
        verdict = decide(1 - result.effect, log10, thresholds)
        return Part(module, here, there, result, log10, verdict)

    parts = [judged(*place, result) for place, result in layers.items()]
    if candidate.residual == BY_EMBEDDINGS and related(parts):
        agreements = ends.agreements_in_halves()
        rows = {
            name: pool([[each] for each in both], halves=True) for name, both in agreements.items()
        }
    else:
        rotation = None if candidate.residual == BY_EMBEDDINGS else candidate.rotations[0]
        rows = {name: pool([[each]]) for name, each in ends.agreements(rotation).items()}
    parts += [judged(name, None, None, result) for name, result in rows.items()]
    return [part for part in parts if not math.isnan(part.distance)]


def related(parts: Sequence[Part]) -> list[Part]:
    """Those of the parts that are related."""
    return [part for part in parts if part.verdict == RELATED]


_MODULE_WORDS = {"self_attn": "attention", "mlp": "feed-forward part"}


def named(parts: Sequence[Mapping[str, Any]]) -> str:
    """Parts in words, as short as they can be said: "layers 0–2, attention of layer 4 and head".

    A layer is named as such where all of its modules that the file knows of are among the parts.
    Numbers are the suspect's; the reference's stand in brackets where they differ.

    Args:
      parts: entries of "parts" of the file.
    """
    modules: dict[tuple[int, int], set[str]] = {}
    words = []
    for part in parts:
        if part["suspect"] is None:
            words.append(f"the {part['module']}")
        else:
            modules.setdefault((part["suspect"], part["reference"]), set()).add(part["module"])
    every = set().union(*modules.values()) if modules else set()
    texts = []
    for kind in (every, *({module} for module in _MODULE_WORDS if len(every) > 1)):
        layers = sorted(layer for layer, names in modules.items() if names == kind)
        if layers:
            prefix = f"{_MODULE_WORDS[min(kind)]} of " if len(kind) == 1 else ""
            texts.append(f"{prefix}{_layers(layers)}")
    return _joined([*texts, *words])


def _layers(layers: Sequence[tuple[int, int]]) -> str:
    word = "layer" if len(layers) == 1 else "layers"
    text = f"{word} {_numbers([suspect for suspect, _ in layers])}"
    if any(suspect != reference for suspect, reference in layers):
        text += f" (the reference's {_numbers([reference for _, reference in layers])})"
    return text


def _numbers(numbers: Sequence[int]) -> str:
    """Runs of three and more as "0–4", the rest one by one."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [
        text
        for run in runs
        for text in ([f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(n) for n in run])
    ]
    return ", ".join(texts)


def _joined(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
