"""Damaged JSON files and their readers: whatever the damage, an `InputError` or a success.

Shared by the seeded tests and by `tools/fuzz_json.py`, where coverage guides the damage.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import pathlib
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from svdjax.checkpoint import load_params, model_config, open_checkpoint, plan_pair
from svdjax.checkpoint.generation import end_tokens, generation_settings
from svdjax.construct.alpha import Alpha
from svdjax.construct.job import read_factor
from svdjax.errors import InputError
from svdjax.model.rope import inverse_frequencies
from tests.support import tiny
from tests.support.adapters import CONFIG, make_adapter

SECONDS = 5.0
MOST_GROWTH = 500 << 20
MOST_CHARACTERS = 2000
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 24,
}
_DEEP = json.loads("[" * 300 + "]" * 300)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 16, 10**6, 2**31, 2**63, 10**30, 10**300, -(10**400)),
    *(0.0, -0.0, 0.5, 1.0, 2.5, 5e-324, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan),
    *("", "x", "linear", "llama3", "longrope", "yarn", "default", "10", "\ud800", "\x1b[2J\n"),
    *("x" * 20_000, [], [1], [None], [[]], [{}], ["x"], [1.5] * 8, [0] * 5000, [1e308, -1]),
    *({}, {"a": 1}, {"": {"": []}}, {"rope_type": "linear"}, {"rope_type": [], "factor": "x"}),
    *(_DEEP, {"full_attention": 3, "sliding_attention": "x"}, ["full_attention"] * 2),
)
PATTERNS: tuple[Any, ...] = (
    *("q_proj", "all-linear", r".*\.q_proj", "^(?!.*mlp).*proj$", "(a+)+$", r"(\w*\.?)*!", "("),
    *("a{9999999999}", "(?P<idx>x)", ".*" * 40 + "!", "(?i)(.|\\w)*!", "[", "\\", "x" * 5000, "|"),
    *(["q_proj", "down_proj"], [r"(.*)*x"], {"q_proj": 4}, {r"(.*)*x": 4}, {"(": 1}, {"": 0}),
    *({"q.proj": 10**400}, {"down_proj": math.inf}, {"a": {"b": 1}}, [[]], ["layers", "(.*)*"]),
    *(
        "(.|\\w)*!",
        ".*" * 8 + "!",
        {"(.|\\w)*!": 2, "q_proj": 2},
        {"(.|\\w)*!|a": 1},
        ["(.|\\w)*!"],
    ),
)
# Text that json.dumps would not write.
_RAW = ("1" + "0" * 5000, "[" * 5000, "1e999", "-", "NaN", '"\\ud800"', '{"a":1,"a":2}', "\x00")
Draw = np.random.Generator


class Hang(BaseException):
    """An input takes too long."""


class Fuzzer:
    """A file of which damaged versions are read.

    Attributes:
        good: Contents that are read without complaint.
        fields: Names of fields that are added.
        aimed: Values for some of the fields, beside those for any.
    """

    def __init__(self, file: pathlib.Path, good: list[Any], read: Callable[[], None]):
        """`read` reads `file` in every way that commands do."""
        self.good, self.fields = good, sorted({key for one in good for key in one})
        self.aimed: dict[str, tuple[Any, ...]] = {}
        self._file, self._read = file, read

    def content(self, draw: Draw) -> bytes:
        """A good content, damaged once to three times, as text too at times."""
        value = copy.deepcopy(self.good[draw.integers(len(self.good))])
        raw = ""
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            raw = self._damage(value, draw) or raw
        text = json.dumps(value).replace('"@raw"', raw).encode()
        if draw.random() < 0.2:
            text = bytes(_damaged(bytearray(text), draw))
        return text

    def _damage(self, value: dict[str, Any], draw: Draw) -> str:
        """Change a value in place; the raw text to write for one, if any."""
        inner: Any = value
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            key: Any = keys[draw.integers(len(keys))] if keys else None
            child = inner[key] if keys else None
            if not (isinstance(child, dict | list) and child and draw.random() < 0.7):
                break
            inner = child
        kind = draw.integers(10)
        if key is None or (isinstance(inner, dict) and kind == 0):
            key = self.fields[draw.integers(len(self.fields))]
            inner = inner if isinstance(inner, dict) else value
        if kind == 1 and (isinstance(inner, list) or key in inner):
            del inner[key]
        elif kind == 2:
            inner[key] = [inner.get(key) if isinstance(inner, dict) else inner[key]]
        elif kind == 3:
            inner[key] = "@raw"
            return _RAW[draw.integers(len(_RAW))]
        else:
            odd = self.aimed.get(key, ODD) if draw.random() < 0.7 else ODD
            inner[key] = copy.deepcopy(odd[draw.integers(len(odd))])
        return ""

    def attempt(self, content: bytes) -> str:
        """Read a content within limits: the line that it is refused with, "" where it is not.

        Raises:
            AssertionError: The line is not one, or too long.
            Hang: It takes too long.
        """
        self._file.write_bytes(content)
        try:
            with limited(SECONDS):
                self._read()
        except InputError as error:
            line = str(error)
            assert line
            assert line.isprintable()
            assert len(line) <= MOST_CHARACTERS, len(line)
            return line
        return ""


def _damaged(text: bytearray, draw: Draw) -> bytearray:
    where = int(draw.integers(len(text)))
    kind = draw.integers(4)
    if kind == 0:
        return text[:where]
    if kind == 1:
        text[where] ^= 1 << int(draw.integers(8))
    elif kind == 2:
        text[where] = int(draw.choice(list(b'0123456789-.,:[]{}"\\eE\x00\xffn')))
    else:
        del text[where : where + int(draw.integers(1, 40))]
    return text


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `Hang` where the body takes longer."""

    def ring(*_: object) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _everything(*reads: Callable[[], object]) -> None:
    """All of them, though an earlier one refuses; then the first refusal."""
    refusals = []
    for read in reads:
        try:
            read()
        except InputError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def config_fuzzer(folder: pathlib.Path, family: str) -> Fuzzer:
    """config.json: the plan of a pair, and what the decoder is given in evaluate and probe."""
    base = tiny.make_checkpoint(folder / "base", family, **_sizes(family))
    damaged = folder / "damaged"
    shutil.copytree(base, damaged)

    def plan() -> None:
        with open_checkpoint(base) as one, open_checkpoint(damaged) as two:
            plan_pair(one, two)

    def decode() -> None:
        config = model_config(damaged)
        for rope in (config.rope, config.local_rope or config.rope):
            for long in (False, True) if rope.kind == "longrope" else (False,):
                with np.errstate(all="ignore"):
                    inverse_frequencies(rope, config.head_dim, long=long)
        hash(config)
        end_tokens(damaged)
        with open_checkpoint(damaged) as checkpoint:
            load_params(checkpoint, config, None)

    good = [tiny.tiny_config(family, style=style, **_sizes(family)) for style in ("v4", "v5")]
    # A few fields that some families go by and others do not.
    good[0] |= {"num_labels": 2, "head_dim": good[0].get("head_dim"), "text_config": {}}
    if "partial_rotary_factor" not in good[0]:
        yarn = {"type": "yarn", "factor": 4.0, "beta_fast": 8, "mscale": 1.0, "mscale_all_dim": 2}
        good.append(good[0] | {"rope_scaling": yarn})
        good.append(good[0] | {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    return Fuzzer(damaged / "config.json", good, lambda: _everything(plan, decode))


def _sizes(family: str) -> dict[str, Any]:
    sizes = dict(SMALL)
    if family == "phi3":  # twelve of sixteen dimensions turn, as its lists say
        sizes |= {"hidden_size": 32}
    return sizes


def adapter_fuzzer(folder: pathlib.Path) -> Fuzzer:
    """adapter_config.json: an adapter merged into its base, given or recorded."""
    base = tiny.make_checkpoint(folder / "base", "llama", **SMALL)
    adapter = make_adapter(folder / "adapter", base, rank=2)
    with open_checkpoint(base) as below:

        def merge() -> None:
            merged: Any = open_checkpoint(adapter, lambda: below)
            for name in merged.changed[:2]:
                merged.read(name)

        good = json.loads((adapter / CONFIG).read_text())
        more = {
            "exclude_modules": None,
            "layers_to_transform": [0, 1],
            "layers_pattern": "layers",
            "modules_to_save": ["lm_head"],
            "rank_pattern": {"q_proj": 2, r".*\.down_proj": 2},
            "alpha_pattern": {"down_proj": 3},
        }
        fuzzer = Fuzzer(
            adapter / CONFIG,
            [good, good | more],
            lambda: _everything(merge, lambda: open_checkpoint(adapter)),
        )
        fields = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern")
        fuzzer.aimed = dict.fromkeys((*fields, "alpha_pattern"), PATTERNS)
        return fuzzer


def generation_fuzzer(folder: pathlib.Path) -> Fuzzer:
    """generation_config.json."""
    good = {"eos_token_id": [2, 3], "repetition_penalty": 1.1, "no_repeat_ngram_size": 0}

    def penalties() -> None:
        generation_settings(folder, list(good)[1:])

    return Fuzzer(
        folder / "generation_config.json",
        [good, {"eos_token_id": 2}],
        lambda: _everything(lambda: end_tokens(folder), penalties),
    )


def numbers_fuzzer(folder: pathlib.Path) -> Fuzzer:
    """The files of --alpha and --factor."""
    file = folder / "numbers.json"

    def alpha() -> None:
        Alpha.parse(str(file)).of(["q_proj", "o_proj"])

    good = [{"q_proj": 0.9, "o_proj": 1.1}, {"q_proj": [1.0, 1.1], "o_proj": 1}]
    return Fuzzer(file, good, lambda: _everything(alpha, lambda: read_factor(str(file))))
