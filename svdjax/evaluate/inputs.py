"""Questions and prompts of a sweep, tokenised for every model before anything is computed.

A pair's models are called ``base``, ``post`` and by the names of the variants; variants have post's
tokenizer and prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svdjax.checkpoint import Checkpoint, ModelConfig, digest_of, model_config
from svdjax.engine.inputs import PairJob
from svdjax.errors import InputError
from svdjax.evaluate.benchmarks import Question, read_benchmark
from svdjax.evaluate.benchmarks.questions import SYSTEM
from svdjax.evaluate.evaluator import repeat_prompts
from svdjax.evaluate.responses import questions_digest
from svdjax.text.chat import ChatModel, Prompt, chat_model
from svdjax.text.prompts import PromptText, read_prompts

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings

Questions = tuple[Question, ...]


@dataclass(frozen=True)
class PromptedModel:
    """A checkpoint with its tokenised questions and prompts.

    Attributes:
        checkpoint: The checkpoint, whose weights a variant replaces in part.
        config: Configuration of its decoder.
        chat: Its tokenizer and template.
        questions: Prompts by benchmark and repeat, in the order of the questions.
        prompts: Token ids of the prompts to probe with.
        note: A remark for reports; empty for none.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    chat: ChatModel
    questions: dict[str, list[list[Prompt]]]
    prompts: list[tuple[int, ...]]
    note: str = ""


@dataclass(frozen=True)
class EvalInputs:
    """Questions and prompts of a sweep.

    Attributes:
        questions: Questions by benchmark; empty where no stage asks any.
        prompts: Prompts to probe with; empty where no stage reads any.
        readers: By pair: base and post, tokenised.
    """

    questions: dict[str, Questions] = field(default_factory=dict)
    prompts: tuple[PromptText, ...] = ()
    readers: dict[str, dict[str, PromptedModel]] = field(default_factory=dict)

    def digests(self) -> dict[str, Any]:
        """Fingerprints by the leaf of the config that named the input."""
        digests: dict[str, Any] = {
            f"benchmarks.{name}": {"count": len(questions), "sha256": questions_digest(questions)}
            for name, questions in self.questions.items()
        }
        if self.prompts:
            texts = [prompt.text for prompt in self.prompts]
            digests["probes.prompts"] = {"count": len(texts), "sha256": digest_of(texts)}
        return digests


def read_inputs(jobs: Sequence[PairJob], settings: Settings) -> EvalInputs:
    """Reads benchmarks and prompts, and tokenises them for every model.

    Raises:
        InputError: With every fault: a file, a tokenizer, or a model that the decoder cannot run.
    """
    faults: list[str] = []
    questions: dict[str, Questions] = {}
    prompts: tuple[PromptText, ...] = ()
    if settings.reads_questions:
        options = settings.evaluation
        limit = options.limit if "evaluation" in settings.stages else settings.temperature.questions
        for name, data in settings.benchmarks.given.items():
            try:
                questions[name] = read_benchmark(
                    name, data, limit=limit, seed=options.seed, split=options.split
                )
            except InputError as error:
                faults.append(f"config.benchmarks.{name}: {error}")
    if settings.reads_prompts:
        probes, temperature = settings.probes, settings.temperature
        limit = probes.limit if "probes" in settings.stages else temperature.prompts
        try:
            prompts = read_prompts(probes.prompts, limit)
        except InputError as error:
            faults.append(f"config.probes.prompts: {error}")
    inputs = EvalInputs(questions, prompts)
    models: dict[tuple[str, str], PromptedModel] = {}
    for job in [] if faults else jobs:
        plan = job.plan
        try:
            post = _prompted(inputs, plan.post, plan.post, settings, models)
            base = _prompted(inputs, plan.base, plan.post, settings, models)
            inputs.readers[job.spec.name] = {"base": base, "post": post}
        except InputError as error:
            faults.append(f"{job.spec.label}: {error}")
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return inputs


def _prompted(
    inputs: EvalInputs,
    checkpoint: Checkpoint,
    post: Checkpoint,
    settings: Settings,
    models: dict[tuple[str, str], PromptedModel],
) -> PromptedModel:
    """A checkpoint of a pair, tokenised; a base without a chat template takes that of post."""
    options, config, note = settings.decoder, model_config(checkpoint), ""
    try:
        chat = chat_model(checkpoint, config, options.prompt_format)
    except InputError:
        if checkpoint.path == post.path:
            raise
        chat = chat_model(post, config, options.prompt_format)
        note = "base has no tokenizer or chat template of its own and is asked with those of post"
    key = (str(checkpoint.path), str(chat.directory))
    if key not in models:
        system = SYSTEM if options.system is None else options.system
        rounds = settings.evaluation.rounds
        models[key] = PromptedModel(
            checkpoint=checkpoint,
            config=config,
            chat=chat,
            questions={
                name: repeat_prompts(chat, questions, rounds, system=options.system)
                for name, questions in inputs.questions.items()
            },
            prompts=[
                chat.prompt(prompt.text, system, prompt.location).tokens
                for prompt in inputs.prompts
            ],
            note=note,
        )
    return models[key]
