"""The tokenizer and chat template beside a checkpoint, kept in a process of their own.

None of the checkpoint's code is run and nothing is fetched, and what hangs, aborts or asks for all
memory ends that process (`isolated`) and one command with one line, not this process. It costs a
second once: the process goes on to the next tokenizer, and checkpoints with equal files share one.
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
from svdjax.text.isolated import Lost, Unavailable, Worker

LOAD_SECONDS = 120.0  # of computing; a vocabulary of 250,000 that is converted takes tens
CALL_SECONDS = 20.0
MOST_MEMORY = 4 << 30
_HANDLER = pathlib.Path(__file__).with_name("tokenizer_worker.py")
_CHARACTERS_A_SECOND = 50_000  # on top of CALL_SECONDS; slow tokenizers do several times that
_MOST_VOCABULARY = 256 << 20
# Where vocabularies may lie whatever the kind of tokenizer says.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tekken.json")
_TEMPLATES = "additional_chat_templates"
# What transformers reads of a directory to make a tokenizer, and how large it may be.
_SMALL = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "processor_config.json"),
)
_LARGE = (".model", ".tiktoken", ".spm", ".bpe")
_LARGE_NAMES = (*_VOCABULARIES, "vocab.json", "merges.txt", "vocab.txt")
_CHECK = "take the tokenizer's files from the model's publisher, or have them looked at"


class TokenizerError(InputError):
    """The tokenizer or the chat template fails on a text, or on tokens.

    Attributes:
        why: What transformers says, with the name of the exception.
        words: The same without it.
        kinds: The names of the exception's classes.
    """

    def __init__(self, what: str, refused: _Refused):
        self.why, self.words, self.kinds = str(refused), refused.words, refused.kinds
        super().__init__(f"{what} fails ({self.why}); {_CHECK}")


class _Refused(Exception):
    """The handler's exception, from its reply; `fatal` ones end the process."""

    def __init__(self, reply: dict[str, Any]):
        self.kinds: tuple[str, ...] = tuple(reply["kinds"])
        self.words = printable(" ".join(reply["error"].split()), 200)
        self.fatal: bool = reply["fatal"]
        super().__init__(": ".join(filter(None, (self.kinds[0], self.words))))


class Tokenizer:
    """What of a tokenizer is needed here; made by `load_tokenizer`.

    Attributes:
        name_or_path: The directory.
        eos_token_id: The end of a text, where there is one.
        bos_token_id: Its beginning, where there is one.
        bos_token: The same as text.
        chat_template: The template, or several by name; None for none.
        files: What a tokenizer of its kind is made of.
    """

    def __init__(self, directory: pathlib.Path, host: _Host):
        self._directory, self._host = directory, host
        self.name_or_path = str(directory)
        self.eos_token_id: int | None = host.facts["eos_token_id"]
        self.bos_token_id: int | None = host.facts["bos_token_id"]
        self.bos_token: str | None = host.facts["bos_token"]
        self.chat_template: Any = host.facts["chat_template"]
        self.files: list[str] = host.facts["files"]
        host.users += 1
        weakref.finalize(self, _leave, host)

    def encode(self, text: str, **options: Any) -> list[int]:
        """The tokens of a text; raises `TokenizerError`, or `InputError` where the process ends."""
        request = {"do": "encode", "text": text, "options": options}
        return self._call("tokenizer", request, len(text))["tokens"]

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        """The text of tokens; raises as `encode`."""
        ids = [int(token) for token in tokens]
        request = {"do": "decode", "tokens": ids, "options": options}
        return self._call("tokenizer", request, len(ids))["text"]

    def render(self, turns: Sequence[dict[str, str]], **options: Any) -> str:
        """The text of a conversation by the chat template; raises as `encode`."""
        request = {"do": "render", "turns": list(turns), "options": options}
        length = sum(len(turn["content"]) for turn in turns)
        return self._call("chat template", request, length)["text"]

    def _call(self, what: str, request: dict[str, Any], length: int) -> dict[str, Any]:
        seconds = CALL_SECONDS + length / _CHARACTERS_A_SECOND
        try:
            return self._host.ask(request, seconds)
        except Lost as lost:
            raise InputError(f"{self._directory}: its {what} {lost}; {_CHECK}") from None
        except _Refused as refused:
            raise TokenizerError(f"{self._directory}: its {what}", refused) from None
        except Unavailable as error:
            raise InputError(f"{self._directory}: transformers {error}") from None


class _Host:
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
            raise _Refused(reply)
        return reply


# Those in use by their content, and at most one worker more, with or without a tokenizer.
_hosts: dict[str, _Host] = {}
_spare: list[Worker] = []
# What has ended a worker is not tried again.
_failed: dict[str, _Refused | Lost] = {}
# Reentrant, because Python may collect a tokenizer at any moment.
_LOCK = threading.RLock()


def load_tokenizer(
    path: str | os.PathLike[str], purpose: str, settings: dict[str, Any] | None = None
) -> Tokenizer:
    """The tokenizer of a checkpoint; none of the checkpoint's own code is run.

    Args:
        path: The checkpoint's directory.
        purpose: What needs it, for errors.
        settings: Attributes to set, such as add_bos_token.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    directory = pathlib.Path(path)
    # transformers would take a name that is no directory for one on the hub.
    if not directory.is_dir():
        raise InputError(f"{directory}: is not a directory; expected a checkpoint with a tokenizer")
    check_tokenizer(directory)
    key = _content(directory, settings or {})
    try:
        tokenizer = Tokenizer(directory, _host(key, directory.absolute(), settings or {}))
    except _Refused as refused:
        raise InputError(_unreadable(directory, refused, purpose)) from None
    except Lost as lost:
        raise InputError(
            f"{directory}: has no tokenizer that can be read (it {lost}); {_CHECK}"
        ) from None
    except Unavailable as error:
        raise InputError(f"{directory}: {purpose} needs transformers, which {error}") from None
    # Without its files some kinds load all the same, empty, and lose the text.
    files = tokenizer.files
    if files and not any((directory / name).is_file() for name in (*files, *_VOCABULARIES)):
        raise InputError(_missing(directory, files, purpose))
    return tokenizer


def _missing(directory: pathlib.Path, files: Sequence[str], purpose: str) -> str:
    return (
        f"{directory}: has no tokenizer; expected one of {', '.join(files)}: {purpose} "
        "needs the tokenizer's files beside the model's"
    )


def _unreadable(directory: pathlib.Path, refused: _Refused, purpose: str) -> str:
    """What to say of a tokenizer that transformers does not take."""
    found = [name for name in _names(directory) if _is_vocabulary(name)]
    # Its own words name libraries that have nothing to do with it.
    if not found:
        return _missing(directory, _VOCABULARIES, purpose)
    pieces = [name for name in found if name.endswith(".model")]
    if found == pieces and importlib.util.find_spec("sentencepiece") is None:
        with open_regular(directory / pieces[0]) as stream:
            # A protocol buffer's first field; tiktoken's files are text.
            is_sentencepiece = stream.read(1) == b"\n"
        if is_sentencepiece:
            return (
                f"{directory}: {pieces[0]} is read by sentencepiece, which is not installed; pip "
                "install sentencepiece protobuf, or give the tokenizer as tokenizer.json (with "
                "them, transformers' AutoTokenizer and save_pretrained write it)"
            )
    return (
        f"{directory}: has no tokenizer that can be read ({refused.words or refused}); {purpose} "
        "needs the tokenizer's files beside the model's"
    )


def _host(key: str, path: pathlib.Path, settings: dict[str, Any]) -> _Host:
    with _LOCK:
        if key in _failed:
            raise _failed[key]
        if key in _hosts:
            return _hosts[key]
        unused = [host for host in list(_hosts.values()) if not host.users]
        if unused:
            _spare.append(_hosts.pop(unused[0].key).worker)
        worker = _spare.pop() if _spare else Worker(_HANDLER, MOST_MEMORY)
        try:
            _hosts[key] = _Host(key, path, settings, worker)
        except BaseException as error:
            _spare.append(worker)
            if (isinstance(error, Lost) and error.by_itself) or (
                isinstance(error, _Refused) and error.fatal
            ):
                _failed[key] = error.with_traceback(None)
            raise
        return _hosts[key]


def _leave(host: _Host) -> None:
    with _LOCK:
        host.users -= 1
        unused = [each for each in list(_hosts.values()) if not each.users]
        if not host.users and (_spare or len(unused) > 1):
            _hosts.pop(host.key, None)
            host.worker.close()


def _content(directory: pathlib.Path, settings: dict[str, Any]) -> str:
    """Digest of all that makes the tokenizer; the files are looked at and bounded.

    Raises:
        InputError: One is a link that leads out of the directory, no regular file, or too large.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for path, most in _files(directory):
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > most:
                raise InputError(f"{path}: {size} bytes; expected at most {most}; {_CHECK}")
            content = hashlib.sha256()
            while block := stream.read(1 << 20):
                content.update(block)
        digest.update(path.name.encode("utf-8", "surrogateescape") + b"\0" + content.digest())
    return digest.hexdigest()


def _files(directory: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
    """The files that transformers may read, and how many bytes each may have."""
    found = []
    for name in _names(directory):
        if name in _SMALL:
            found.append((checked_path(directory, name), MOST_JSON_BYTES))
        elif _is_vocabulary(name):
            found.append((checked_path(directory, name), _MOST_VOCABULARY))
    templates = directory / _TEMPLATES
    if templates.is_symlink():
        raise InputError(f"{templates}: is a link; expected a folder inside the directory")
    for name in _names(templates) if templates.is_dir() else []:
        if name.endswith(".jinja"):
            # Links were looked at with the whole directory (`check_tokenizer`).
            found.append((templates / name, MOST_JSON_BYTES))
    return found


def _is_vocabulary(name: str) -> bool:
    return name in _LARGE_NAMES or name.endswith(_LARGE)


def _names(directory: pathlib.Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise InputError(f"{directory}: cannot be read ({error.strerror})") from None
