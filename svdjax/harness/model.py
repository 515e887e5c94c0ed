"""svdjax's decoder as the model "svdjax" of lm-evaluation-harness.

Importing this module registers it, so that `lm_eval.simple_evaluate("svdjax", …)` finds it. It
treats requests as the harness's own Hugging Face model (`HFLM`) does at batch size 1: encoding,
prefix token, truncation, windows, stop strings. Differences:

- log-softmax and sums are float32 whatever the dtype, and no result depends on the batch;
- defaults for sampling and penalties in a checkpoint's generation_config.json are not taken over (a
  warning says so where greedy answers depend on them), nor is `generate`'s own top_k of 50;
- random draws depend on `seed` and the number of the request alone.
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

from svdjax.checkpoint import load_params, model_config, open_model, refuse_unused_base
from svdjax.checkpoint.generation import generation_settings
from svdjax.errors import InputError
from svdjax.model import Generator, Request, Sampling, decoder_mesh
from svdjax.text.chat import chat_model
from svdjax.text.options import DTYPES
from svdjax.text.scoring import Scorer
from svdjax.text.tokenizers import Tokenizer, TokenizerError, check_vocabulary, load_tokenizer

_AUTO_ROWS = 32
# Settings of `generate` that do nothing at this value, and those that affect only random draws.
_NEUTRAL = {
    **{"num_beams": 1, "repetition_penalty": 1, "no_repeat_ngram_size": 0},
    **{"top_k": 0, "min_p": 0, "typical_p": 1},
}
_DRAW_SETTINGS = ("top_p", "top_k", "min_p", "typical_p")
_PENALTIES = ("repetition_penalty", "no_repeat_ngram_size")


@register_model("svdjax")
class SvdjaxLM(TemplateLM):
    """A checkpoint as a model of the harness.

    Args:
        pretrained: A directory, or a hub id org/name[@revision].
        base: Base of an adapter, where it is not the one that it names.
        dtype: "float32" or "bfloat16", of weights and computation.
        batch_size: Rows on the devices together; "auto": 32 for generation, and for likelihoods as
            many as have 256 MB of float32 logits.
        max_length: Tokens the model sees at most; None: max_position_embeddings.
        max_gen_toks: New tokens where a task does not say how many.
        add_bos_token: Whether special tokens are added to texts; None: as the tokenizer does.
        devices: Number of devices; 0 takes all.
        tensor_parallel: Number of devices that hold the model together.
        seed: Seed of random draws.
        device: Ignored: the harness's command line always names one, of torch; jax takes those of
            JAX_PLATFORMS.
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
        base: str = "",
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
                f"model svdjax has no argument {', '.join(unknown)}; it knows pretrained, base, "
                "dtype, batch_size, max_length, max_gen_toks, add_bos_token, devices, "
                "tensor_parallel and seed"
            )
        if not pretrained:
            raise InputError("model svdjax needs --model_args pretrained=DIR or org/name")
        if dtype not in DTYPES:
            raise InputError(f"dtype={dtype}: expected {' or '.join(DTYPES)}")
        self.dtype = jnp.dtype(dtype)
        # 0: the generator and the scorer have their own.
        is_auto = str(batch_size).startswith("auto")
        self.batch_size = 0 if is_auto else _at_least_one("batch_size", batch_size)
        self.max_gen_toks = _at_least_one("max_gen_toks", max_gen_toks)
        self.add_bos_token, self.seed = add_bos_token, int(seed)
        # Its bootstrap would fork, and what is forked beside jax's threads may hang.
        os.environ.setdefault("DISABLE_MULTIPROC", "1")
        self._mesh = decoder_mesh(int(devices), int(tensor_parallel))
        with open_model(str(pretrained), base) as checkpoint:
            refuse_unused_base(base, [checkpoint])
            self.config = model_config(checkpoint)
            self.tokenizer, self._eos = _tokenizer(checkpoint.tokenizer, add_bos_token)
            self._stops = chat_model(checkpoint, self.config, "plain").stop_tokens
            self._host_params = load_params(checkpoint, self.config, None)
            _warn_of_penalties(checkpoint.home)
        context = self.config.max_position_embeddings
        self.max_length = _at_least_one("max_length", context if max_length is None else max_length)
        self._model: Scorer | Generator | None = None

    @property
    def eot_token_id(self) -> int:
        """Token of the end of a text."""
        return self._eos

    @property
    def prefix_token_id(self) -> int:
        """Token before a text without context: bos, or eos where there is none."""
        bos = self.tokenizer.bos_token_id
        return self._eos if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in the harness's cache of requests."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Prompt of a conversation; without system turns where the template refuses them.

        Raises:
            InputError: The template fails.
        """
        without_system = [turn for turn in chat_history if turn["role"] != "system"]
        why = None
        for turns in (chat_history, without_system):
            try:
                return self.tokenizer.render(
                    turns,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            except TokenizerError as error:
                # Another error: there is no template at all.
                if "TemplateError" not in error.kinds:
                    raise InputError(f"{self.tokenizer.name_or_path}: {error.message}") from None
                why = error.message
        raise InputError(f"{self.tokenizer.name_or_path}: its chat template fails ({why})")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text; without special ones where it begins with the prefix token."""
        if add_special_tokens is None:
            prefix = self.tokenizer.decode([self.prefix_token_id])
            add_special_tokens = False if has_bos_prefix(string, prefix) else self.add_bos_token
        return self._encoded(string, add_special_tokens)

    def _encoded(self, text: str, add_special_tokens: bool | None) -> list[int]:
        options = {}
        if add_special_tokens is not None:
            options["add_special_tokens"] = add_special_tokens
        tokens = self.tokenizer.encode(text, **options)
        check_vocabulary(tokens, self.config.vocab_size, self.tokenizer.name_or_path)
        return tokens

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        likelihoods: list[Any] = [None] * len(requests)
        pairs = [
            _truncated(context, continuation, self.max_length)
            for _, context, continuation in requests
        ]
        cut = sum(len(new) < len(old) for (new, _), (_, old, _) in zip(pairs, requests))
        if cut:
            logging.getLogger(__name__).warning(
                "%d of %d contexts are cut from the left to max_length=%d",
                *(cut, len(pairs), self.max_length),
            )
        with _bar(len(requests), "likelihoods", disable_tqdm) as bar:
            scorer = self._running(Scorer, batch_size=self.batch_size)
            for scored in scorer.run(pairs):
                likelihood = (scored.log_likelihood, scored.is_greedy)
                likelihoods[scored.index] = likelihood
                request = requests[scored.index][0]
                # None: a window of a longer text, which is cached as a whole.
                if request is not None:
                    self.cache_hook.add_partial("loglikelihood", request, likelihood)
                bar.update()
        return likelihoods

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
        """Continuations of contexts up to a stop string, the end of the text, or max_gen_toks."""
        texts = [""] * len(requests)
        # Requests with equal sampling parameters share batches.
        groups: dict[Sampling, list[tuple[Request, StopStrings]]] = {}
        for index, instance in enumerate(requests):
            sampling, request, stop = self._request(index, *instance.args)
            groups.setdefault(sampling, []).append((request, stop))
        with _bar(len(requests), "generation", disable_tqdm) as bar:
            for sampling, members in groups.items():
                generator = self._running(
                    Generator, batch_size=self.batch_size or _AUTO_ROWS, stop_tokens=self._stops
                )
                generator.sampling = sampling
                for completion in generator.run([request for request, _ in members]):
                    request, stop = members[completion.index]
                    index = request.stream
                    texts[index] = stop.text(completion.tokens)
                    self.cache_hook.add_partial(
                        "generate_until", requests[index].args, texts[index]
                    )
                    bar.update()
        return texts

    def _request(
        self, index: int, context: str, gen_kwargs: dict[str, Any]
    ) -> tuple[Sampling, Request, StopStrings]:
        settings: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, self.max_gen_toks))
        until, max_new_tokens = settings.pop("until"), settings.pop("max_gen_toks")
        sampling = _sampling(settings, self.seed)
        eos = self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        stop = StopStrings(handle_stop_sequences(until, eos=eos), self.tokenizer)
        room = self.max_length - max_new_tokens
        if room < 1:
            raise InputError(
                f"max_gen_toks={max_new_tokens} leaves no room for a prompt in "
                f"max_length={self.max_length}; give fewer by --gen_kwargs max_gen_toks=N"
            )
        # A chat template may have written bos already.
        has_bos = has_bos_prefix(context, self.tokenizer.bos_token)
        tokens = self._encoded(context, False if has_bos else self.add_bos_token)
        tokens = tokens[-room:] or [self.prefix_token_id]
        return sampling, Request(tokens, max_new_tokens, index, stop), stop

    def _running(self, kind: type[Any], **options: Any) -> Any:
        """The model as a `Scorer` or a `Generator`: the devices hold one of them at a time."""
        if not isinstance(self._model, kind):
            self._model = None
            self._model = kind(
                self._host_params, self.config, mesh=self._mesh, dtype=self.dtype, **options
            )
        return self._model


class StopStrings:
    """Stop condition of a continuation: the token that completes a stop string.

    Args:
        until: Stop strings; they may be special tokens.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, until: Sequence[str], tokenizer: Any):
        self._until, self._tokenizer = until, tokenizer
        lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in until]
        # A model may write a stop string in a few more tokens than the tokenizer would.
        self._lookback = max(lengths, default=0) + 2
        self._checked, self._end = 0, None

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the new tokens so far hold a stop string; called with ever more of them."""
        while self._end is None and self._checked < len(tokens):
            self._checked += 1
            recent = tokens[max(0, self._checked - self._lookback) : self._checked]
            text = self._tokenizer.decode(list(recent), skip_special_tokens=False)
            if any(stop in text for stop in self._until):
                self._end = self._checked
        return self._end is not None

    def text(self, tokens: Sequence[int]) -> str:
        """Text of the continuation before the first stop string, without special tokens."""
        self(tokens)
        text = self._tokenizer.decode(list(tokens[: self._end]), skip_special_tokens=True)
        return postprocess_generated_text(text, list(self._until), None)


def _truncated(
    context: list[int], continuation: list[int], max_length: int
) -> tuple[list[int], list[int]]:
    """Context cut from the left, so that the model reads `max_length` tokens at most."""
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
    do_sample, temperature = bool(rest.pop("do_sample")), float(rest.pop("temperature", 0.0))
    if not do_sample:
        rest = {name: value for name, value in rest.items() if name not in _DRAW_SETTINGS}
    top_p = float(rest.pop("top_p", 1.0))
    unknown = [f"{name}={value}" for name, value in rest.items() if _NEUTRAL.get(name) != value]
    if unknown:
        raise InputError(
            f"gen_kwargs {', '.join(unknown)}: model svdjax knows until, max_gen_toks, do_sample, "
            "temperature and top_p"
        )
    if do_sample and temperature <= 0:
        raise InputError(
            f"gen_kwargs do_sample=True: needs a temperature above 0, is {temperature}"
        )
    try:
        return Sampling(temperature, top_p, seed) if do_sample else Sampling()
    except ValueError as error:
        raise InputError(f"gen_kwargs: {error}") from None


def _tokenizer(path: pathlib.Path, add_bos_token: bool | None) -> tuple[Tokenizer, int]:
    """Tokenizer and its eos token."""
    settings = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    tokenizer = load_tokenizer(path, "lm-evaluation-harness", settings)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: its tokenizer has no eos token; expected eos_token")
    return tokenizer, tokenizer.eos_token_id


def _warn_of_penalties(path: pathlib.Path) -> None:
    """Warns of a checkpoint's own penalties: transformers applies them even to greedy answers."""
    for name, value in generation_settings(path, _PENALTIES).items():
        if value != _NEUTRAL[name]:
            logging.getLogger(__name__).warning(
                "%s: %s=%s of generation_config.json is not applied", path, name, value
            )


def _at_least_one(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise InputError(f"{name}={value}: expected a number of at least 1")
    return number


def _bar(total: int, task: str, disabled: bool) -> Any:
    return tqdm.tqdm(total=total, desc=f"svdjax {task}", disable=disabled)
