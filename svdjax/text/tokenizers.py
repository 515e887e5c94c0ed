"""Tokenizers and chat templates of checkpoints, in worker processes.

None of the checkpoint's code is run and nothing is fetched. Code that hangs, aborts or asks for all
memory ends its worker (`worker`) and one command with one line, not this process. A worker costs a
second once: it goes on to the next tokenizer, and checkpoints with equal files share one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from svdjax.checkpoint.contents import check_tokenizer
from svdjax.checkpoint.files import checked_path
from svdjax.errors import InputError, printable
from svdjax.files import MOST_JSON_BYTES, open_regular
from svdjax.text.worker import Worker, WorkerLost, WorkerUnavailable

LOAD_SECONDS = 120.0  # of computing; a vocabulary of 250,000 that is converted takes tens
CALL_SECONDS = 20.0
MOST_MEMORY = 4 << 30
_HANDLER = pathlib.Path(__file__).with_name("tokenizer_handler.py")
_CHARACTERS_A_SECOND = 50_000  # on top of CALL_SECONDS; slow tokenizers do several times that
_MOST_VOCABULARY = 256 << 20
# Vocabulary files besides those that the kind of tokenizer names.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tekken.json")
_TEMPLATES = "additional_chat_templates"
# Files that transformers reads to make a tokenizer, by how large they may be.
_SMALL = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "processor_config.json"),
)
_LARGE = (".model", ".tiktoken", ".spm", ".bpe")
_LARGE_NAMES = (*_VOCABULARIES, "vocab.json", "merges.txt", "vocab.txt")
_REMEDY = "take the tokenizer's files from the model's publisher, or have them looked at"


class TokenizerError(InputError):
    """The tokenizer or the chat template fails on a text, or on tokens.

    Attributes:
        why: Name and message of transformers' exception.
        message: Its message alone.
        kinds: Names of the exception's classes.
    """

    def __init__(self, failing: str, error: _HandlerError):
        self.why, self.message, self.kinds = str(error), error.message, error.kinds
        super().__init__(f"{failing} fails ({self.why}); {_REMEDY}")


class _HandlerError(Exception):
    """The handler's exception, from its reply; `fatal` ones end the process."""

    def __init__(self, reply: dict[str, Any]):
        self.kinds: tuple[str, ...] = tuple(reply["kinds"])
        self.message = printable(" ".join(reply["error"].split()), 200)
        self.fatal: bool = reply["fatal"]
        super().__init__(": ".join(filter(None, (self.kinds[0], self.message))))


class Tokenizer:
    """A checkpoint's tokenizer and chat template; made by `load_tokenizer`.

    Attributes:
        name_or_path: The directory.
        eos_token_id: End of a text; None for none.
        bos_token_id: Beginning of a text; None for none.
        bos_token: Beginning of a text, as text.
        chat_template: The template, or several by name; None for none.
        files: Names of the files of a tokenizer of its kind.
    """

    def __init__(self, directory: pathlib.Path, loaded: _LoadedWorker):
        self._directory, self._loaded = directory, loaded
        self.name_or_path = str(directory)
        self.eos_token_id: int | None = loaded.facts["eos_token_id"]
        self.bos_token_id: int | None = loaded.facts["bos_token_id"]
        self.bos_token: str | None = loaded.facts["bos_token"]
        self.chat_template: Any = loaded.facts["chat_template"]
        self.files: list[str] = loaded.facts["files"]
        loaded.users += 1
        weakref.finalize(self, _release, loaded)

    def encode(self, text: str, **options: Any) -> list[int]:
        """Token ids of a text; raises `TokenizerError`, or `InputError` where its process ends."""
        request = {"do": "encode", "text": text, "options": options}
        return self._call("tokenizer", request, len(text))["tokens"]

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        """Text of token ids; raises as `encode`."""
        ids = [int(token) for token in tokens]
        request = {"do": "decode", "tokens": ids, "options": options}
        return self._call("tokenizer", request, len(ids))["text"]

    def render(self, turns: Sequence[dict[str, str]], **options: Any) -> str:
        """Text of a conversation by the chat template; raises as `encode`."""
        request = {"do": "render", "turns": list(turns), "options": options}
        length = sum(len(turn["content"]) for turn in turns)
        return self._call("chat template", request, length)["text"]

    def _call(self, component: str, request: dict[str, Any], length: int) -> dict[str, Any]:
        seconds = CALL_SECONDS + length / _CHARACTERS_A_SECOND
        try:
            return self._loaded.ask(request, seconds)
        except WorkerLost as error:
            raise InputError(f"{self._directory}: its {component} {error}; {_REMEDY}") from None
        except _HandlerError as error:
            raise TokenizerError(f"{self._directory}: its {component}", error) from None
        except WorkerUnavailable as error:
            raise InputError(f"{self._directory}: transformers {error}") from None


class _LoadedWorker:
    """A worker with a tokenizer loaded; loaded again where the worker was lost meanwhile."""

    def __init__(self, key: str, path: pathlib.Path, settings: dict[str, Any], worker: Worker):
        self.key, self.worker, self.users = key, worker, 0
        self._request = {"do": "load", "path": str(path), "settings": settings}
        self._lock = threading.Lock()
        self.facts = self._load()

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        with self._lock:
            self.worker.running()
            if self.worker.losses != self._losses:
                self._load()
            return self._reply(request, seconds)

    def _load(self) -> dict[str, Any]:
        facts = self._reply(self._request, LOAD_SECONDS)
        self._losses = self.worker.losses
        return facts

    def _reply(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        # Where others compute too, the clock goes on while the process waits for its turn.
        reply = self.worker.ask(request, 10 + 4 * seconds, seconds)
        if "error" in reply:
            raise _HandlerError(reply)
        return reply


# Workers in use by their tokenizer's content, and at most one more, with or without a tokenizer.
_loaded: dict[str, _LoadedWorker] = {}
_spare: list[Worker] = []
# A tokenizer that has ended a worker is not tried again.
_failed: dict[str, _HandlerError | WorkerLost] = {}
# Reentrant, because Python may collect a tokenizer at any moment.
_LOCK = threading.RLock()


def check_vocabulary(tokens: Sequence[int], vocab_size: int, location: str) -> None:
    """Raises `InputError`, beginning with `location`, for tokens outside the vocabulary."""
    if tokens and max(tokens) >= vocab_size:
        raise InputError(
            f"{location}: token {max(tokens)} is outside the vocabulary of {vocab_size}; the "
            "tokenizer beside the model must be its own"
        )


def load_tokenizer(
    path: str | os.PathLike[str], purpose: str, settings: dict[str, Any] | None = None
) -> Tokenizer:
    """Tokenizer of a checkpoint.

    Args:
        path: The checkpoint's directory.
        purpose: What needs it, for errors.
        settings: Attributes to set, such as add_bos_token.

    Raises:
        InputError: There is no tokenizer, or it cannot be read.
    """
    directory = pathlib.Path(path)
    # transformers would take a name that is no directory for one on the hub.
    if not directory.is_dir():
        raise InputError(f"{directory}: is not a directory; expected a checkpoint with a tokenizer")
    check_tokenizer(directory)
    key = _content_digest(directory, settings or {})
    try:
        tokenizer = Tokenizer(directory, _load(key, directory.absolute(), settings or {}))
    except _HandlerError as error:
        raise InputError(_unreadable(directory, error, purpose)) from None
    except WorkerLost as error:
        raise InputError(
            f"{directory}: has no tokenizer that can be read (it {error}); {_REMEDY}"
        ) from None
    except WorkerUnavailable as error:
        raise InputError(f"{directory}: {purpose} needs transformers, which {error}") from None
    # Without their files some kinds load all the same, empty, and lose the text.
    files = tokenizer.files
    if files and not any((directory / name).is_file() for name in (*files, *_VOCABULARIES)):
        raise InputError(_missing(directory, files, purpose))
    return tokenizer


def _missing(directory: pathlib.Path, files: Sequence[str], purpose: str) -> str:
    return (
        f"{directory}: has no tokenizer; expected one of {', '.join(files)}: {purpose} "
        "needs the tokenizer's files beside the model's"
    )


def _unreadable(directory: pathlib.Path, error: _HandlerError, purpose: str) -> str:
    """Message for a tokenizer that transformers does not take."""
    vocabularies = [name for name in _names(directory) if _is_vocabulary(name)]
    # transformers' own message would name libraries that have nothing to do with it.
    if not vocabularies:
        return _missing(directory, _VOCABULARIES, purpose)
    models = [name for name in vocabularies if name.endswith(".model")]
    if vocabularies == models and importlib.util.find_spec("sentencepiece") is None:
        with open_regular(directory / models[0]) as stream:
            # A protocol buffer's first field; tiktoken's files are text.
            is_sentencepiece = stream.read(1) == b"\n"
        if is_sentencepiece:
            return (
                f"{directory}: {models[0]} is read by sentencepiece, which is not installed; pip "
                "install sentencepiece protobuf, or give the tokenizer as tokenizer.json (with "
                "them, transformers' AutoTokenizer and save_pretrained write it)"
            )
    return (
        f"{directory}: has no tokenizer that can be read ({error.message or error}); {purpose} "
        "needs the tokenizer's files beside the model's"
    )


def _load(key: str, path: pathlib.Path, settings: dict[str, Any]) -> _LoadedWorker:
    with _LOCK:
        if key in _failed:
            raise _failed[key]
        if key in _loaded:
            return _loaded[key]
        if unused := _unused():
            _spare.append(_loaded.pop(unused[0].key).worker)
        worker = _spare.pop() if _spare else Worker(_HANDLER, MOST_MEMORY)
        try:
            _loaded[key] = _LoadedWorker(key, path, settings, worker)
        except BaseException as error:
            _spare.append(worker)
            if (isinstance(error, WorkerLost) and error.by_itself) or (
                isinstance(error, _HandlerError) and error.fatal
            ):
                _failed[key] = error.with_traceback(None)
            raise
        return _loaded[key]


def _unused() -> list[_LoadedWorker]:
    return [loaded for loaded in list(_loaded.values()) if not loaded.users]


def _release(loaded: _LoadedWorker) -> None:
    with _LOCK:
        loaded.users -= 1
        if not loaded.users and (_spare or len(_unused()) > 1):
            _loaded.pop(loaded.key, None)
            loaded.worker.close()


def _content_digest(directory: pathlib.Path, settings: dict[str, Any]) -> str:
    """Digest of a tokenizer's files and settings.

    Raises:
        InputError: A file is a link that leads out of the directory, not regular, or too large.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for path, most in _files(directory):
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > most:
                raise InputError(f"{path}: {size} bytes; expected at most {most}; {_REMEDY}")
            content = hashlib.file_digest(stream, "sha256")
        digest.update(path.name.encode("utf-8", "surrogateescape") + b"\0" + content.digest())
    return digest.hexdigest()


def _files(directory: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
    """Files that transformers may read, and how many bytes each may have."""
    files = []
    for name in _names(directory):
        if name in _SMALL:
            files.append((checked_path(directory, name), MOST_JSON_BYTES))
        elif _is_vocabulary(name):
            files.append((checked_path(directory, name), _MOST_VOCABULARY))
    templates = directory / _TEMPLATES
    if templates.is_symlink():
        raise InputError(f"{templates}: is a link; expected a folder inside the directory")
    for name in _names(templates) if templates.is_dir() else []:
        if name.endswith(".jinja"):
            # `check_tokenizer` has refused links in the whole directory.
            files.append((templates / name, MOST_JSON_BYTES))
    return files


def _is_vocabulary(name: str) -> bool:
    return name in _LARGE_NAMES or name.endswith(_LARGE)


def _names(directory: pathlib.Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise InputError(f"{directory}: cannot be read ({error.strerror})") from None
