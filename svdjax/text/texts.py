"""Held-out text: files of it, and its tokens.

A ``.jsonl`` file has an object a line: {"text": …}, whose tokens all count as targets, or
{"prompt": …, "completion": …}, taken verbatim, where the completion's tokens count. Any other file
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
from svdjax.text.lines import has_lone_surrogate, nonblank_lines, parse_record
from svdjax.text.tokenizers import Tokenizer, TokenizerError, check_vocabulary, load_tokenizer

_RECORD = 'expected {"text": …} or {"prompt": …, "completion": …} with strings'
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
        """Number of tokens that count."""
        return int(sum(row.sum() for row in self.weights))


def read_texts(path: str | os.PathLike[str], limit: int = 0) -> tuple[Text, ...]:
    """Texts of a file, in order.

    Args:
        path: The file, in one of the forms above.
        limit: Number of texts to take, from the beginning; 0 takes all.

    Raises:
        InputError: It is missing, too large, not UTF-8, or a line is not of the form; or it holds
            no text.
    """
    path = pathlib.Path(path)
    texts: list[Text] = []
    for number, line in nonblank_lines(path, _LINES):
        if limit and len(texts) == limit:
            break
        if path.suffix == ".jsonl":
            texts.append(_text(line, number, f"{path}, line {number}"))
        else:
            texts.append(Text("", line.rstrip("\r"), number))
    if not texts:
        raise InputError(f"{path}: holds no text; expected at least one line that is not blank")
    return tuple(texts)


def _text(line: str, number: int, location: str) -> Text:
    record = parse_record(line, location, _RECORD)
    parts = [key for key in ("text", "prompt", "completion") if key in record]
    if parts not in (["text"], ["prompt", "completion"]):
        keys = printable(", ".join(record) or "no key", 200)
        raise InputError(f"{location}: {_RECORD}, found {keys}")
    for key in parts:
        value = record[key]
        if not isinstance(value, str):
            raise InputError(f"{location}: {_RECORD}, found {type(value).__name__} as {key}")
        if has_lone_surrogate(value):
            raise InputError(
                f"{location}: {key} holds half a surrogate pair, which is no character"
            )
    return Text(record.get("prompt", ""), record[parts[-1]], number)


def tokenise(
    texts: Sequence[Text], directory: str | os.PathLike[str], config: ModelConfig, file: str
) -> Rows:
    """Tokens of texts by a checkpoint's own tokenizer.

    Prompt and completion are tokenised one by one, and no special tokens are added. Only a text
    without prompt gets the tokenizer's bos token in front, where it has one, so that every token of
    the text counts; without one, all but the first do.

    Args:
        texts: The texts.
        directory: The checkpoint.
        config: Its configuration.
        file: The texts' file, for errors.

    Raises:
        InputError: There is no tokenizer, or a text is too short, too long for the model, or has
            tokens outside its vocabulary.
    """
    tokenizer = load_tokenizer(directory, "held-out text")
    bos = tokenizer.bos_token_id
    tokens, weights = [], []
    for text in texts:
        location = f"{file}, line {text.line}"
        prompt = _token_ids(tokenizer, text.prompt, location)
        if not text.prompt and bos is not None:
            prompt = [bos]
        completion = _token_ids(tokenizer, text.completion, location)
        row = prompt + completion
        counted = np.arange(1, len(row)) >= len(prompt)
        if not counted.any():
            raise InputError(
                f"{location}: gives {len(row)} token(s), none of them to be predicted; expected at "
                "least 2, the last in the text or completion; lengthen or remove it"
            )
        if len(row) > config.max_position_embeddings:
            raise InputError(
                f"{location}: gives {len(row)} tokens, and the model sees at most "
                f"{config.max_position_embeddings} (max_position_embeddings); shorten or split it"
            )
        check_vocabulary(row, config.vocab_size, location)
        tokens.append(np.array(row, np.int32))
        weights.append(counted.astype(np.float32))
    return Rows(tuple(tokens), tuple(weights))


def _token_ids(tokenizer: Tokenizer, text: str, location: str) -> list[int]:
    if not text:
        return []
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except TokenizerError as error:
        raise InputError(f"{location}: the model's tokenizer fails on it ({error.why})") from None
