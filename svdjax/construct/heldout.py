"""The held-out text of every pair, read and tokenised before anything is computed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdjax.checkpoint import model_config
from svdjax.engine.inputs import PairJob
from svdjax.errors import InputError
from svdjax.text.texts import Rows, read_texts, tokenise

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings


@dataclass(frozen=True)
class Heldout:
    """Text that a pair's models are judged on.

    Attributes:
        path: Of the file.
        rows: Its tokens, by the tokenizer of post.
        texts: How many texts.
        tokens: How many tokens count.
    """

    path: pathlib.Path
    rows: Rows
    texts: int
    tokens: int


def read_heldout(jobs: Sequence[PairJob], settings: Settings) -> dict[str, Heldout]:
    """Held-out text by pair, for those that name one which a stage looks at.

    Raises:
        InputError: With every fault of every pair: the file, the tokenizer, or a model that the
            decoder cannot run.
    """
    heldout, faults = {}, []
    for job in jobs:
        spec = job.spec
        if not spec.text:
            continue
        path = pathlib.Path(spec.text).expanduser()
        try:
            texts = read_texts(path, settings.text_limit)
            post = job.plan.post
            rows = tokenise(texts, post.tokenizer, model_config(post), str(path))
            heldout[spec.name] = Heldout(path, rows, len(texts), rows.targets)
        except InputError as error:
            faults.append(f"{spec.label}: {error}")
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return heldout
