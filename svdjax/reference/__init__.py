"""The reference family: six small trained models that ship with the package.

`base` and `base_prime` are pre-trained from scratch on different text from different seeds;
`instruct` and `reasoning` are `base` after full fine-tuning on short and on long answers, `rl` and
`rejection` after a short warm-up and training on sampled answers: by reward, and on the right ones
alone. Each is an ordinary Hugging Face directory. README.md in this folder says how they were made
and measured.
"""

from __future__ import annotations

import pathlib

NAMES = ("base", "base_prime", "instruct", "reasoning", "rl", "rejection")
"""The members of the family."""

_HERE = pathlib.Path(__file__).resolve().parent


def path(name: str) -> pathlib.Path:
    """The Hugging Face directory of one member of the family.

    Raises:
        InputError: `name` is none of `NAMES`.
    """
    if name not in NAMES:
        from svdjax.errors import InputError

        raise InputError(
            f"svdjax.reference: no model named {name!r}; expected one of {', '.join(NAMES)}"
        )
    return _HERE / name


def heldout_path() -> pathlib.Path:
    """The held-out questions: JSONL of question, answer, pattern, template, template_seen."""
    return _HERE / "heldout.jsonl"


def text_path(name: str) -> pathlib.Path:
    """Held-out text of a post-trained member: JSONL of prompt, completion (90 right answers).

    Raises:
        InputError: `name` is not a post-trained member.
    """
    texts = {"instruct": "heldout_instruct.jsonl", "reasoning": "heldout_reasoning.jsonl"}
    # These two answer in the words of `instruct`.
    texts |= dict.fromkeys(("rl", "rejection"), texts["instruct"])
    if name not in texts:
        from svdjax.errors import InputError

        raise InputError(
            f"svdjax.reference: no held-out text for {name!r}; expected one of {', '.join(texts)}"
        )
    return _HERE / texts[name]


__all__ = ["NAMES", "heldout_path", "path", "text_path"]
