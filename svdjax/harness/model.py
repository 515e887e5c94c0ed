"""svdjax's decoder as the model "svdjax" of lm-evaluation-harness.

Importing this module registers it, so that `lm_eval.simple_evaluate("svdjax", …)` finds it. What a
request means is what the harness's own Hugging Face model (`HFLM`) makes of it at batch size 1:
encoding, prefix token, truncation, windows, stop strings. What differs:

- log-softmax and sums are float32 whatever the dtype, and no result depends on the batch;
- defaults for sampling and penalties in a checkpoint's generation_config.json are not taken over (a
  warning says so where greedy answers depend on them), nor is `generate`'s own top_k of 50;
- what is drawn depends on `seed` and the number of the request alone.
"""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import tqdm
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
    get_rolling_token_windows,
    make_disjoint_window,
)

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.checkpoint.generation import generation_settings
from svdjax.errors import InputError
from svdjax.model import Generator, Request, Sampling, decoder_mesh
from svdjax.text.chat import chat_model
from svdjax.text.scoring import Scorer
from svdjax.text.tokenizers import Tokenizer, TokenizerError, load_tokenizer

_DTYPES = ("float32", "bfloat16")
_AUTO_ROWS = 32
# Settings of `generate` that do nothing at this value, and those that only random draws feel.
_NEUTRAL = {
    **{"num_beams": 1, "repetition_penalty": 1, "no_repeat_ngram_size": 0},
    **{"top_k": 0, "min_p": 0, "typical_p": 1},
}
_OF_DRAWS = ("top_p", "top_k", "min_p", "typical_p")
_PENALTIES = ("repetition_penalty", "no_repeat_ngram_size")


@register_model("svdjax")
class SvdjaxLM(TemplateLM):
    """A checkpoint that the harness can ask.

    Args:
        pretrained: A directory, or a hub id org/name[@revision].
        dtype: "float32" or "bfloat16", of weights and computation.
        batch_size: Rows on the devices together; "auto": 32 for generation, and for likelihoods as
            many as have 256 MB of float32 logits.
        max_length: Tokens the model sees at most; None: max_position_embeddings.
        max_gen_toks: New tokens where a task does not say how many.
        add_bos_token: Whether special tokens are added to texts; None: as the tokenizer does.
        devices: How many to use; 0 takes all.
        tensor_parallel: How many of them hold the model together.
        seed: Of random draws.
        device: Not looked at: the harness's command line always names one, of torch; jax takes
            those of JAX_PLATFORMS.
        **unknown: Refused.

    Raises:
        InputError: An argument or the checkpoint cannot be used. The methods raise it where a
            request cannot be answered: it has no token, too many, or settings that `Generator`
            does not know.
    """

    def __init__(
        self,
        pretrained: str = "",
        *,
        dtype: str = "float32",
        batch_size: int | str = "auto",
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        devices: int = 0,
        tensor_parallel: int = 1,
        seed: int = 0,
        device: str | None = None,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            raise InputError(
                f"model svdjax has no argument {', '.join(unknown)}; it knows pretrained, dtype, "
                "batch_size, max_length, max_gen_toks, add_bos_token, devices, tensor_parallel and "
                "seed"
            )
        if not pretrained:
            raise InputError("model svdjax needs --model_args pretrained=DIR or org/name")
        if dtype not in _DTYPES:
            raise InputError(f"dtype={dtype}: expected {' or '.join(_DTYPES)}")
        self.dtype = jnp.dtype(dtype)
        self.batch_size = _rows(batch_size)
        self.max_gen_toks = _at_least_one("max_gen_toks", max_gen_toks)
        self.add_bos_token, self.seed = add_bos_token, int(seed)
        # Its bootstrap would fork, and what is forked beside jax's threads may hang.
        os.environ.setdefault("DISABLE_MULTIPROC", "1")
        self._mesh = decoder_mesh(int(devices), int(tensor_parallel))
        with open_checkpoint(str(pretrained)) as checkpoint:
            self.config = model_config(checkpoint.home)
            self.tokenizer, self._eos = _tokenizer(checkpoint.tokenizer, add_bos_token)
            self._stops = chat_model(checkpoint, self.config, "plain").stop_tokens
            self._host_params = load_params(checkpoint, self.config, None)
            _warn_of_penalties(checkpoint.home)
        context = self.config.max_position_embeddings
        self.max_length = _at_least_one("max_length", context if max_length is None else max_length)
        self._running: Scorer | Generator | None = None

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return self._eos

    @property
    def prefix_token_id(self) -> int:
        """What comes before a text without context: bos, or eos where there is none."""
        bos = self.tokenizer.bos_token_id
        return self._eos if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Its place, for the harness's cache of requests."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a conversation; system turns are left out where the template refuses them.

        Raises:
            InputError: The template fails.
        """
        some = [turn for turn in chat_history if turn["role"] != "system"]
        why = None
        for turns in (chat_history, some):
            try:
                return self.tokenizer.render(
                    turns,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            except TokenizerError as error:
                # Else there is no template at all.
                if "TemplateError" not in error.kinds:
                    raise InputError(f"{self.tokenizer.name_or_path}: {error.words}") from None
                why = error.words
        raise InputError(f"{self.tokenizer.name_or_path}: its chat template fails ({why})")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The tokens of a text; special ones are not added to one that begins with the prefix."""
        if add_special_tokens is None:
            begun = has_bos_prefix(string, self.tokenizer.decode([self.prefix_token_id]))
            add_special_tokens = False if begun else self.add_bos_token
        return self._encoded(string, add_special_tokens)

    def _encoded(self, text: str, special: bool | None) -> list[int]:
        how = {} if special is None else {"add_special_tokens": special}
        tokens = self.tokenizer.encode(text, **how)
        if tokens and max(tokens) >= self.config.vocab_size:
            raise InputError(
                f"{self.tokenizer.name_or_path}: token {max(tokens)} is outside the vocabulary of "
                f"{self.config.vocab_size}; the tokenizer beside the model must be its own"
            )
        return tokens

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        answers: list[Any] = [None] * len(requests)
        pairs = [_window(context, goal, self.max_length) for _, context, goal in requests]
        cut = sum(len(new) < len(old) for (new, _), (_, old, _) in zip(pairs, requests))
        if cut:
            logging.getLogger(__name__).warning(
                "%d of %d contexts are cut from the left to max_length=%d",
                *(cut, len(pairs), self.max_length),
            )
        with _bar(len(requests), "likelihoods", disable_tqdm) as bar:
            for score in self._scorer().run(pairs):
                answer = answers[score.index] = (score.log_likelihood, score.is_greedy)
                request = requests[score.index][0]
                # None: a window of a longer text, which is kept as a whole.
                if request is not None:
                    self.cache_hook.add_partial("loglikelihood", request, answer)
                bar.update()
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """`log p(text | prefix token)` of whole texts, in windows of `max_length` tokens."""
        windows, owners = [], []
        for index, request in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(index)
        sums = [0.0] * len(requests)
        for index, (log, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm)):
            sums[index] += log
        for request, total in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to a stop string, the end of the text, or max_gen_toks."""
        texts = [""] * len(requests)
        # Requests whose tokens are chosen alike share batches.
        groups: dict[Sampling, list[tuple[int, Request, Ending]]] = {}
        for index, request in enumerate(requests):
            sampling, each, ending = self._asked(index, *request.args)
            groups.setdefault(sampling, []).append((index, each, ending))
        with _bar(len(requests), "generation", disable_tqdm) as bar:
            for sampling, members in groups.items():
                generator = self._generator()
                generator.sampling = sampling
                for one in generator.run([each for _, each, _ in members]):
                    index, _, ending = members[one.index]
                    texts[index] = ending.text(one.tokens)
                    request = requests[index].args
                    self.cache_hook.add_partial("generate_until", request, texts[index])
                    bar.update()
        return texts

    def _asked(
        self, index: int, context: str, settings: dict[str, Any]
    ) -> tuple[Sampling, Request, Ending]:
        """How a request's tokens are chosen, the request, and where it ends."""
        given: dict[str, Any] = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        until, most = given.pop("until"), given.pop("max_gen_toks")
        sampling = _sampling(given, self.seed)
        eos = self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        ending = Ending(handle_stop_sequences(until, eos=eos), self.tokenizer)
        room = self.max_length - most
        if room < 1:
            raise InputError(
                f"max_gen_toks={most} leaves no room for a prompt in max_length={self.max_length}; "
                "give fewer by --gen_kwargs max_gen_toks=N"
            )
        # A template has written bos already.
        begun = has_bos_prefix(context, self.tokenizer.bos_token)
        tokens = self._encoded(context, False if begun else self.add_bos_token)
        tokens = tokens[-room:] or [self.prefix_token_id]
        return sampling, Request(tokens, most, index, ending), ending

    def _scorer(self) -> Scorer:
        return self._run(Scorer, batch_size=self.batch_size)

    def _generator(self) -> Generator:
        rows = self.batch_size or _AUTO_ROWS
        return self._run(Generator, batch_size=rows, stop_tokens=self._stops)

    def _run(self, kind: type[Any], **options: Any) -> Any:
        """The model, ready for one kind of request: the devices hold it for one at a time."""
        if not isinstance(self._running, kind):
            self._running = None
            self._running = kind(
                self._host_params, self.config, mesh=self._mesh, dtype=self.dtype, **options
            )
        return self._running


class Ending:
    """Where a continuation ends: after the token that completes a stop string.

    Args:
        until: Stop strings; they may be special tokens.
        tokenizer: Of the model.
    """

    def __init__(self, until: Sequence[str], tokenizer: Any):
        self._until, self._tokenizer = until, tokenizer
        lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in until]
        # A model may write a stop string in a few more tokens than the tokenizer would.
        self._lookback = max(lengths, default=0) + 2
        self._seen, self._end = 0, None

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the new tokens so far hold a stop string; called with ever more of them."""
        while self._end is None and self._seen < len(tokens):
            self._seen += 1
            recent = tokens[max(0, self._seen - self._lookback) : self._seen]
            text = self._tokenizer.decode(list(recent), skip_special_tokens=False)
            if any(stop in text for stop in self._until):
                self._end = self._seen
        return self._end is not None

    def text(self, tokens: Sequence[int]) -> str:
        """The continuation's text before the first stop string, without special tokens."""
        self(tokens)
        text = self._tokenizer.decode(list(tokens[: self._end]), skip_special_tokens=True)
        return postprocess_generated_text(text, list(self._until), None)


def _window(
    context: list[int], continuation: list[int], max_length: int
) -> tuple[list[int], list[int]]:
    """The context cut from the left, so that the model reads `max_length` tokens at most."""
    if not context or not continuation:
        raise InputError(
            f"a request has {len(context)} token(s) of context and {len(continuation)} of "
            "continuation; expected at least one of each"
        )
    room = max_length + 1 - len(continuation)
    if room < 1:
        raise InputError(
            f"a request's continuation has {len(continuation)} tokens, and the model sees at most "
            f"max_length={max_length}"
        )
    return context[-room:], continuation


def _sampling(settings: dict[str, Any], seed: int) -> Sampling:
    """`Sampling` of normalised generation settings."""
    rest = {name: value for name, value in settings.items() if value is not None}
    drawing, temperature = bool(rest.pop("do_sample")), float(rest.pop("temperature", 0.0))
    if not drawing:
        rest = {name: value for name, value in rest.items() if name not in _OF_DRAWS}
    top_p = float(rest.pop("top_p", 1.0))
    wrong = [f"{name}={value}" for name, value in rest.items() if _NEUTRAL.get(name) != value]
    if wrong:
        raise InputError(
            f"gen_kwargs {', '.join(wrong)}: model svdjax knows until, max_gen_toks, do_sample, "
            "temperature and top_p"
        )
    if drawing and temperature <= 0:
        raise InputError(
            f"gen_kwargs do_sample=True: needs a temperature above 0, is {temperature}"
        )
    try:
        return Sampling(temperature, top_p, seed) if drawing else Sampling()
    except ValueError as error:
        raise InputError(f"gen_kwargs: {error}") from None


def _tokenizer(path: pathlib.Path, add_bos_token: bool | None) -> tuple[Tokenizer, int]:
    """The tokenizer, and its eos token."""
    settings = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    tokenizer = load_tokenizer(path, "lm-evaluation-harness", settings)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: its tokenizer has no eos token; expected eos_token")
    return tokenizer, tokenizer.eos_token_id


def _warn_of_penalties(path: pathlib.Path) -> None:
    """Transformers applies the checkpoint's own penalties even to greedy answers; here nobody does.

    Raises:
        InputError: generation_config.json is not what it should be.
    """
    for name, value in generation_settings(path, _PENALTIES).items():
        if value != _NEUTRAL[name]:
            logging.getLogger(__name__).warning(
                "%s: %s=%s of generation_config.json is not applied", path, name, value
            )


def _rows(batch_size: int | str) -> int:
    """0 for "auto"."""
    if str(batch_size).startswith("auto"):
        return 0
    return _at_least_one("batch_size", batch_size)


def _at_least_one(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise InputError(f"{name}={value}: expected a number of at least 1")
    return number


def _bar(total: int, what: str, disabled: bool) -> Any:
    return tqdm.tqdm(total=total, desc=f"svdjax {what}", disable=disabled)
