"""Handler of a `worker.Worker` that reads a tokenizer and renders its chat template.

Both are untrusted: templates loop, tokenizers panic or abort, and some ask for all memory. torch
takes long to import and is not needed; nothing is fetched.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

_MOST = 16 << 20  # characters, or tokens, of one reply


def prepare() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Function that carries out a request's "do" with the tokenizer loaded last."""
    os.environ |= {
        **{"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"},
        **{"TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1"},
    }
    modules: Any = sys.modules
    modules["torch"] = None  # looks as if it were not installed
    warnings.simplefilter("ignore")
    from transformers import AutoTokenizer

    tokenizer: Any = None

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal tokenizer
        if request["do"] == "load":
            tokenizer = None
            tokenizer = AutoTokenizer.from_pretrained(
                request["path"], trust_remote_code=False, local_files_only=True
            )
            for name, value in request["settings"].items():
                setattr(tokenizer, name, value)
            return _facts(tokenizer)
        return _DO[request["do"]](tokenizer, request)

    return handle


def _facts(tokenizer: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"files": sorted(set(tokenizer.vocab_files_names.values()))}
    for name in ("eos_token_id", "bos_token_id"):
        token = getattr(tokenizer, name)
        facts[name] = None if token is None else _token_ids([token])[0]
    return facts | {"bos_token": tokenizer.bos_token, "chat_template": tokenizer.chat_template}


def _encode(tokenizer: Any, request: dict[str, Any]) -> dict[str, Any]:
    tokens = tokenizer(request["text"], **request["options"])["input_ids"]
    _check_length(len(tokens), "tokens")
    return {"tokens": _token_ids(tokens)}


def _token_ids(tokens: Any) -> list[int]:
    ids = [int(token) for token in tokens]
    for token in ids:
        if not 0 <= token < 1 << 31:
            raise ValueError(f"{token} is no token")
    return ids


def _decode(tokenizer: Any, request: dict[str, Any]) -> dict[str, Any]:
    return _text(tokenizer.decode(request["tokens"], **request["options"]))


def _render(tokenizer: Any, request: dict[str, Any]) -> dict[str, Any]:
    options = request["options"]
    return _text(tokenizer.apply_chat_template(request["turns"], tokenize=False, **options))


def _text(text: str) -> dict[str, Any]:
    _check_length(len(text), "characters")
    return {"text": text}


def _check_length(count: int, unit: str) -> None:
    if count > _MOST:
        raise ValueError(f"gives {count} {unit}, of which at most {_MOST} are read")


_DO = {"encode": _encode, "decode": _decode, "render": _render}
