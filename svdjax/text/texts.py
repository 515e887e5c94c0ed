"""Held-out text: reading it from a file, and turning it into rows of tokens.

A ``.jsonl`` file has an object a line: {"text": …}, of which every token counts as a target, or
{"prompt": …, "completion": …}, taken verbatim, of which the completion's tokens do. Any other file
is plain text, one text a line.

Axis: `T` time.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svdjax.checkpoint import ModelConfig
from svdjax.errors import InputError, printable
from svdjax.text.reading import filled_lines, has_half_a_surrogate, parse_record
from svdjax.text.tokenizers import Tokenizer, TokenizerError, load_tokenizer

_WANTED = 'expected {"text": …} or {"prompt": …, "completion": …} with strings'
_LINES = 'a text a line, or {"text": …} a line in a .jsonl'


@dataclass(frozen=True)
class Text:
    """A text whose `completion` counts; `line` is where it stands in its file, from 1."""

    prompt: str
    completion: str
    line: int


@dataclass(frozen=True)
class Rows:
    """Tokenised texts.

    Attributes:
        tokens: Token ids of each text, [T] int32.
        weights: 1.0 where the target `tokens[1:]` counts, else 0.0, [T - 1] float32.
    """

    tokens: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]

    @property
    def targets(self) -> int:
        """How many tokens count."""
        return int(sum(row.sum() for row in self.weights))


def read_texts(path: str | os.PathLike[str], limit: int = 0) -> tuple[Text, ...]:
    """Read a file of held-out text.

    Args:
        path: The file; see the top of this module.
        limit: How many texts to take, from the beginning; 0 takes all.

    Raises:
        InputError: It is missing, too large, not UTF-8, or a line is not of the form; or it holds
            no text.
    """
    where = pathlib.Path(path)
    found: list[Text] = []
    for number, line in filled_lines(where, _LINES):
        if limit and len(found) == limit:
            break
        if where.suffix == ".jsonl":
            found.append(_text(line, number, f"{where}, line {number}"))
        else:
            found.append(Text("", line.rstrip("\r"), number))
    if not found:
        raise InputError(f"{where}: holds no text; expected at least one line that is not blank")
    return tuple(found)


def _text(line: str, number: int, where: str) -> Text:
    record = parse_record(line, where, _WANTED)
    parts = [key for key in ("text", "prompt", "completion") if key in record]
    if parts not in (["text"], ["prompt", "completion"]):
        keys = printable(", ".join(record) or "no key", 200)
        raise InputError(f"{where}: {_WANTED}, found {keys}")
    for key in parts:
        value = record[key]
        if not isinstance(value, str):
            raise InputError(f"{where}: {_WANTED}, found {type(value).__name__} as {key}")
        if has_half_a_surrogate(value):
            raise InputError(f"{where}: {key} holds half a surrogate pair, which is no character")
    return Text(record.get("prompt", ""), record[parts[-1]], number)


def tokenise(
    texts: Sequence[Text], directory: str | os.PathLike[str], config: ModelConfig, where: str
) -> Rows:
    """Turn texts into tokens with a checkpoint's own tokenizer.

    Prompt and completion are tokenised one by one, and no special tokens are added. Only a text
    without prompt gets the tokenizer's bos token in front, where it has one, so that every token of
    the text counts; without one, all but the first do.

    Args:
        texts: What to tokenise.
        directory: The checkpoint.
        config: Its configuration.
        where: The texts' file, for errors.

    Raises:
        InputError: There is no tokenizer, or a text is too short, too long for the model, or has
            tokens outside its vocabulary.
    """
    tokenizer = load_tokenizer(directory, "held-out text")
    bos = tokenizer.bos_token_id
    tokens, weights = [], []
    for text in texts:
        place = f"{where}, line {text.line}"
        head = _ids(tokenizer, text.prompt, place)
        if not text.prompt and bos is not None:
            head = [bos]
        tail = _ids(tokenizer, text.completion, place)
        row = np.array(head + tail, np.int64)
        counted = np.arange(1, len(row)) >= len(head)
        _check(row, counted, config, place)
        tokens.append(row.astype(np.int32))
        weights.append(counted.astype(np.float32))
    return Rows(tuple(tokens), tuple(weights))


def _check(row: np.ndarray, counted: np.ndarray, config: ModelConfig, place: str) -> None:
    if not counted.any():
        raise InputError(
            f"{place}: gives {len(row)} token(s), none of them to be predicted; expected at least "
            "2, the last in the text or completion; lengthen or remove it"
        )
    if len(row) > config.max_position_embeddings:
        raise InputError(
            f"{place}: gives {len(row)} tokens, and the model sees at most "
            f"{config.max_position_embeddings} (max_position_embeddings); shorten or split it"
        )
    if row.max() >= config.vocab_size:
        raise InputError(
            f"{place}: token {row.max()} is outside the vocabulary of {config.vocab_size}; the "
            "tokenizer beside the model must be its own"
        )


def _ids(tokenizer: Tokenizer, text: str, place: str) -> list[int]:
    if not text:
        return []
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except TokenizerError as error:
        raise InputError(f"{place}: the model's tokenizer fails on it ({error.why})") from None
