"""The family's tokenizer: a byte-level BPE that is built exactly like Qwen2's.

transformers 5 rebuilds the tokenizer of any qwen2 checkpoint from vocabulary and merges, with
Qwen2's own splitting (each digit alone, a space before a digit on its own) and NFC; so the file
holds just that, and reads the same in every version. Any text can be encoded.
"""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from .chat import CHAT_TEMPLATE, END, START, SYSTEMS, chat
from .corpus import document
from .problems import training_problem
from .solutions import narrated, short
from .worlds import WORLD, WORLD_PRIME

END_OF_TEXT = "<|endoftext|>"
SPECIAL = (END_OF_TEXT, START, END)
TOKENS = 896
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    pieces = [
        pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(pieces)  # pyright: ignore[reportReturnType]


def _sample(documents: int) -> Iterable[str]:
    """Text of every kind that any of the models is trained on."""
    rng = random.Random("tokenizer")
    for _ in range(documents):
        yield document(rng, WORLD)
        yield document(rng, WORLD_PRIME)
    for _ in range(documents):
        problem = training_problem(rng)
        for answer in (short(problem), narrated(problem)):
            text = "".join(chat(problem.question, rng.choice(SYSTEMS), answer))
            for mark in SPECIAL:
                text = text.replace(mark, "\n")
            yield text


def build(documents: int = 4000) -> Tokenizer:
    """Trains the merges on a fixed sample of the text of all models."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = _pre_tokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS - len(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_sample(documents), trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    return tokenizer


def save(tokenizer: Tokenizer, directory: pathlib.Path, *, chat_model: bool, length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json as transformers' AutoTokenizer reads them."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
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
