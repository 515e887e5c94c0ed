"""Held-out text: reading it from a file, and turning it into rows of tokens.

A ``.jsonl`` file has an object a line: {"text": …}, of which every token counts as a target, or
{"prompt": …, "completion": …}, taken verbatim, of which the completion's tokens do. Any other file
is plain text, one text a line.

Axis: `T` time.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdjax.checkpoint import ModelConfig
from svdjax.errors import InputError, printable

MOST_BYTES = 256 << 20
_WANTED = 'expected {"text": …} or {"prompt": …, "completion": …} with strings'


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
    where = pathlib.Path(path).expanduser()
    try:
        size = where.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"{where}: {size} bytes of text; expected at most {MOST_BYTES}")
        content = where.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 text (byte {error.start})") from None
    found: list[Text] = []
    # Not splitlines, which also splits at separators that may stand inside a text.
    for number, line in enumerate(content.split("\n"), 1):
        if limit and len(found) == limit:
            break
        if not line.strip():
            continue
        if where.suffix == ".jsonl":
            found.append(_text(line, number, f"{where}, line {number}"))
        else:
            found.append(Text("", line.rstrip("\r"), number))
    if not found:
        raise InputError(f"{where}: holds no text; expected at least one line")
    return tuple(found)


def _text(line: str, number: int, where: str) -> Text:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not valid JSON ({printable(str(error), 200)})") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: {_WANTED}, found {type(record).__name__}")
    if "text" in record:
        prompt, completion = "", record["text"]
    elif "prompt" in record and "completion" in record:
        prompt, completion = record["prompt"], record["completion"]
    else:
        keys = printable(", ".join(map(str, record)) or "no key", 200)
        raise InputError(f"{where}: {_WANTED}, found {keys}")
    if not (isinstance(prompt, str) and isinstance(completion, str)):
        raise InputError(f"{where}: {_WANTED}, found other types")
    return Text(prompt, completion, number)


def tokenise(
    texts: Sequence[Text], directory: str | os.PathLike[str], config: ModelConfig, where: str
) -> Rows:
    """Turn texts into tokens with a checkpoint's own tokenizer.

    Prompt and completion are tokenised one by one, without special tokens. A text without prompt
    gets the tokenizer's bos token in front where it has one, so that its first token counts too.

    Args:
        texts: What to tokenise.
        directory: The checkpoint.
        config: Its configuration.
        where: The texts' file, for errors.

    Raises:
        InputError: There is no tokenizer, or a text is too short, too long for the model, or has
            tokens outside its vocabulary.
    """
    tokenizer = _tokenizer(pathlib.Path(directory))
    bos = tokenizer.bos_token_id
    tokens, weights = [], []
    for text in texts:
        place = f"{where}, line {text.line}"
        head = _ids(tokenizer, text.prompt)
        if not head and bos is not None:
            head = [bos]
        tail = _ids(tokenizer, text.completion)
        row = np.array(head + tail, np.int64)
        counted = np.arange(1, len(row)) >= len(head)
        if len(row) < 2 or not counted.any():
            raise InputError(f"{place}: gives {len(row)} token(s); expected one to predict")
        if len(row) > config.max_position_embeddings:
            raise InputError(
                f"{place}: {len(row)} tokens, and the model sees at most "
                f"{config.max_position_embeddings}; shorten or split it"
            )
        if row.max() >= config.vocab_size:
            raise InputError(
                f"{place}: token {row.max()} is outside the vocabulary of {config.vocab_size}: "
                f"the tokenizer in {directory} is another model's"
            )
        tokens.append(row.astype(np.int32))
        weights.append(counted.astype(np.float32))
    return Rows(tuple(tokens), tuple(weights))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _tokenizer(directory: pathlib.Path) -> Any:
    with _quiet():
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
        # It raises whatever the many kinds of tokenizers run into.
        except Exception as error:
            raise InputError(
                f"{directory}: has no tokenizer that can be read "
                f"({printable(' '.join(str(error).split()), 200)}); held-out text needs one"
            ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers' advice is for those who train."""
    from svdjax.checkpoint.config import quiet_import

    with quiet_import():
        from transformers.utils import logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
