"""Prompts of questions: a model's chat template and tokenizer."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from svdjax.checkpoint import Checkpoint, ModelConfig
from svdjax.checkpoint.generation import end_tokens
from svdjax.errors import InputError, printable
from svdjax.text.tokenizers import TokenizerError, check_vocabulary, load_tokenizer


@dataclass(frozen=True)
class Prompt:
    """A prompt as text and as token ids."""

    text: str
    tokens: tuple[int, ...]


class ChatModel:
    """Tokenizer, chat template and stop tokens of a checkpoint.

    Args:
        directory: The checkpoint.
        config: Its configuration.
        prompt_format: "chat": the model's chat template; "plain": system prompt, question and an
            empty line, for models that have none.
        home: The directory with config.json and generation_config.json, where it is another.

    Raises:
        InputError: There is no tokenizer, no chat template where one is needed, or the files'
            stop tokens are no tokens.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: ModelConfig,
        prompt_format: str = "chat",
        home: pathlib.Path | None = None,
    ):
        self.directory, self.config = pathlib.Path(directory), config
        self._end_tokens = end_tokens(home or self.directory)
        self.prompt_format = prompt_format
        self._tokenizer = load_tokenizer(directory, "a prompt")
        if prompt_format == "chat" and not self._tokenizer.chat_template:
            raise InputError(
                f"{self.directory}: has no chat template; expected chat_template.jinja, or "
                "chat_template in tokenizer_config.json; copy it from the model's post-trained "
                "version, or give --prompt_format=plain"
            )
        templates = self._tokenizer.chat_template
        if prompt_format == "chat" and isinstance(templates, dict) and "default" not in templates:
            names = printable(", ".join(map(str, templates)), 200)
            raise InputError(
                f"{self.directory}: has the chat templates {names}, and none is named default, "
                "which is the one that is used; rename one in tokenizer_config.json or "
                "additional_chat_templates, or give --prompt_format=plain"
            )

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Token ids that end an answer: the tokenizer's, config.json's and generation config's."""
        eos = self._tokenizer.eos_token_id
        return frozenset(self._end_tokens) | ({eos} if eos is not None else set())

    def prompt(self, question: str, system: str, location: str) -> Prompt:
        """Prompt of a question.

        Args:
            question: The user's turn.
            system: The system prompt, empty for none. Where the template knows no system turn, it
                opens the user's.
            location: Which question it is, for errors.

        Raises:
            InputError: The template or the tokenizer fails, or the prompt has no token, leaves no
                room in the model's context, or has tokens outside the vocabulary.
        """
        text = self._text(question, system, location)
        try:
            special = self.prompt_format == "plain"
            tokens = self._tokenizer.encode(text, add_special_tokens=special)
        except TokenizerError as error:
            raise InputError(f"{location}: the tokenizer fails on it ({error.why})") from None
        context = self.config.max_position_embeddings
        if not tokens:
            raise InputError(f"{location}: gives an empty prompt; expected at least one token")
        if len(tokens) >= context:
            raise InputError(
                f"{location}: its prompt has {len(tokens)} tokens, and the model sees at most "
                f"{context} (max_position_embeddings), answer included; shorten or leave it out"
            )
        check_vocabulary(tokens, self.config.vocab_size, location)
        return Prompt(text, tuple(tokens))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of an answer without special tokens; raises `InputError` where that fails."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _text(self, question: str, system: str, location: str) -> str:
        if self.prompt_format == "plain":
            return "\n".join(part for part in (system, question) if part) + "\n\n"
        conversations = [[("user", question)]]
        if system:
            # Some templates (gemma's) refuse a system turn.
            conversations = [
                [("system", system), ("user", question)],
                [("user", f"{system}\n\n{question}")],
            ]
        why = ""
        for turns in conversations:
            messages = [{"role": role, "content": content} for role, content in turns]
            try:
                return self._tokenizer.render(messages, add_generation_prompt=True)
            except TokenizerError as error:
                why = error.why
        raise InputError(f"{location}: the model's chat template fails ({why})")


def chat_model(checkpoint: Checkpoint, config: ModelConfig, prompt_format: str) -> ChatModel:
    """`ChatModel` of an opened checkpoint; raises as its constructor does."""
    return ChatModel(checkpoint.tokenizer, config, prompt_format, checkpoint.home)
