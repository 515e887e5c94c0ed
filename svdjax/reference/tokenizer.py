"""The family's tokenizer: every byte, every digit and every word of the two worlds is one token.

A byte-level BPE without merges: words that stand in the vocabulary are taken whole, all else falls
back to its bytes, so any text can be encoded and decoded exactly. Digits are always split.
"""

from __future__ import annotations

import collections
import json
import pathlib
import random
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from svdjax.reference.chat import CHAT_TEMPLATE, END, START, SYSTEMS, chat
from svdjax.reference.corpus import document
from svdjax.reference.problems import training_problem
from svdjax.reference.solutions import long, short
from svdjax.reference.worlds import WORLD, WORLD_PRIME

END_OF_TEXT = "<|endoftext|>"
SPECIAL = (END_OF_TEXT, START, END)
MAX_WORDS = 512
_SPLIT = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s")


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    pieces = [
        pre_tokenizers.Split(_SPLIT, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(pieces)  # pyright: ignore[reportReturnType]


def _sample(documents: int) -> Iterable[str]:
    """Text of every kind that any of the four models is trained on."""
    rng = random.Random("tokenizer")
    for _ in range(documents):
        yield document(rng, WORLD)
        yield document(rng, WORLD_PRIME)
    for _ in range(documents):
        problem = training_problem(rng)
        for answer in (short(problem), long(problem)):
            yield "".join(chat(problem.question, rng.choice(SYSTEMS), answer))


def build(documents: int = 4000) -> Tokenizer:
    """Count the words of a fixed sample and keep the `MAX_WORDS` most frequent ones."""
    split, counts = _pre_tokenizer(), collections.Counter()
    for text in _sample(documents):
        for mark in SPECIAL:
            text = text.replace(mark, "\n")
        counts.update(piece for piece, _ in split.pre_tokenize_str(text) if len(piece) > 1)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Ties are broken by the word itself: the vocabulary depends on the counts alone.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *ranked])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    return tokenizer


def save(tokenizer: Tokenizer, directory: pathlib.Path, *, chat_model: bool, length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers' AutoTokenizer reads them."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END if chat_model else END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [START, END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
