"""From questions to the tokens of a chat prompt, with the model's own template."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from svdjax.checkpoint import Checkpoint, ModelConfig
from svdjax.checkpoint.generation import end_tokens
from svdjax.errors import InputError
from svdjax.text.question import Question
from svdjax.text.tokenizers import TokenizerError, load_tokenizer


@dataclass(frozen=True)
class Prompt:
    """What a model reads: the text, and its tokens."""

    text: str
    tokens: tuple[int, ...]


class ChatModel:
    """The tokenizer of a checkpoint, as far as asking and answering needs it.

    Args:
        directory: The checkpoint.
        config: Its configuration.
        prompt_format: "chat": the model's chat template; "plain": system prompt, question and an
            empty line, for models that have none.
        home: The directory with config.json and generation_config.json, where it is another.

    Raises:
        InputError: There is no tokenizer, no chat template where one is needed, or what the files
            say of the end of an answer makes no sense.
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

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end an answer: of the tokenizer, config.json and generation config."""
        own = self._tokenizer.eos_token_id
        own = {own} if isinstance(own, int) and own >= 0 else set()
        return frozenset(own | self._end_tokens)

    def prompt(self, question: str, system: str, place: str) -> Prompt:
        """The prompt of a question.

        Args:
            question: The user's turn.
            system: The system prompt, empty for none. Where the template knows no system turn, it
                opens the user's.
            place: Which question it is, for errors.

        Raises:
            InputError: The template or the tokenizer fails, or the prompt has no token, leaves no
                room in the model's context, or has tokens outside the vocabulary.
        """
        text = self._text(question, system, place)
        try:
            special = self.prompt_format == "plain"
            tokens = self._tokenizer.encode(text, add_special_tokens=special)
        except TokenizerError as error:
            raise InputError(f"{place}: the tokenizer fails on it ({error.why})") from None
        most = self.config.max_position_embeddings
        if not tokens:
            raise InputError(f"{place}: gives an empty prompt; expected at least one token")
        if len(tokens) >= most:
            raise InputError(
                f"{place}: its prompt has {len(tokens)} tokens, and the model sees at most {most} "
                "(max_position_embeddings), answer included; shorten or leave it out"
            )
        if max(tokens) >= self.config.vocab_size:
            raise InputError(
                f"{place}: token {max(tokens)} is outside the vocabulary of "
                f"{self.config.vocab_size}; the tokenizer beside the model must be its own"
            )
        return Prompt(text, tuple(tokens))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of an answer, special tokens left out; `InputError` where that fails."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _text(self, question: str, system: str, place: str) -> str:
        if self.prompt_format == "plain":
            return "\n".join(part for part in (system, question) if part) + "\n\n"
        user = {"role": "user", "content": question}
        turns = [{"role": "system", "content": system}] if system else []
        try:
            return self._template([*turns, user])
        except TokenizerError as error:
            if not system:
                raise InputError(
                    f"{place}: the model's chat template fails ({error.why})"
                ) from None
        # Some templates (gemma's) refuse a system turn.
        try:
            return self._template([{"role": "user", "content": f"{system}\n\n{question}"}])
        except TokenizerError as error:
            raise InputError(f"{place}: the model's chat template fails ({error.why})") from None

    def _template(self, turns: list[dict[str, str]]) -> str:
        return self._tokenizer.render(turns, add_generation_prompt=True)


def chat_model(checkpoint: Checkpoint, config: ModelConfig, prompt_format: str) -> ChatModel:
    """The `ChatModel` of an opened checkpoint; raises as that does."""
    return ChatModel(checkpoint.tokenizer, config, prompt_format, checkpoint.home)


def question_prompts(
    model: ChatModel, questions: Sequence[Question], *, system: str | None = None
) -> list[Prompt]:
    """The prompts of a benchmark.

    Args:
        model: Who is asked.
        questions: What.
        system: A system prompt in the place of the benchmark's own; empty for none.

    Raises:
        InputError: As `ChatModel.prompt`.
    """
    return [
        model.prompt(one.text, one.system if system is None else system, f"question {one.id}")
        for one in questions
    ]
