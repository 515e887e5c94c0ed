"""What a sweep's models read: questions and prompts, in tokens before anything is computed.

A pair's models are called ``base``, ``post`` and by the names of the variants; variants read and
answer as post does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svdjax.checkpoint import Checkpoint, ModelConfig, digest_of, model_config
from svdjax.engine.inputs import PairJob
from svdjax.errors import InputError
from svdjax.evaluate.asking import repeat_prompts
from svdjax.evaluate.benchmarks import Question, read_benchmark
from svdjax.evaluate.benchmarks.wording import SYSTEM
from svdjax.evaluate.responses import questions_digest
from svdjax.text.chat import ChatModel, Prompt, chat_model
from svdjax.text.prompts import PromptText, read_prompts

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings

Questions = tuple[Question, ...]


@dataclass(frozen=True)
class PromptedModel:
    """How a checkpoint reads.

    Attributes:
        checkpoint: Its weights, of which a variant replaces some.
        config: Of its decoder.
        chat: Its tokenizer and template.
        questions: Prompts by benchmark and repeat, in the order of the questions.
        prompts: Token ids of the prompts to probe with.
        note: What is to be known of it; empty if nothing.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    chat: ChatModel
    questions: dict[str, list[list[Prompt]]]
    prompts: list[tuple[int, ...]]
    note: str = ""


@dataclass(frozen=True)
class EvalInputs:
    """What a sweep's models read.

    Attributes:
        questions: By benchmark; empty where no stage asks any.
        prompts: To probe with; empty where no stage reads any.
        readers: By pair, of base and of post.
    """

    questions: dict[str, Questions] = field(default_factory=dict)
    prompts: tuple[PromptText, ...] = ()
    readers: dict[str, dict[str, PromptedModel]] = field(default_factory=dict)

    def digests(self) -> dict[str, Any]:
        """Fingerprints by the leaf of the config that named the input."""
        found: dict[str, Any] = {
            f"benchmarks.{name}": {"count": len(some), "sha256": questions_digest(some)}
            for name, some in self.questions.items()
        }
        if self.prompts:
            texts = [one.text for one in self.prompts]
            found["probes.prompts"] = {"count": len(texts), "sha256": digest_of(texts)}
        return found


def read_inputs(jobs: Sequence[PairJob], settings: Settings) -> EvalInputs:
    """Reads benchmarks and prompts and makes every model's tokens of them.

    Raises:
        InputError: With every fault: a file, a tokenizer, or a model that the decoder cannot run.
    """
    faults: list[str] = []
    questions: dict[str, Questions] = {}
    prompts: tuple[PromptText, ...] = ()
    if settings.reads_questions:
        how = settings.evaluation
        limit = how.limit if "evaluation" in settings.stages else settings.temperature.questions
        for name, data in settings.benchmarks.given.items():
            try:
                questions[name] = read_benchmark(
                    name, data, limit=limit, seed=how.seed, split=how.split
                )
            except InputError as error:
                faults.append(f"config.benchmarks.{name}: {error}")
    if settings.reads_prompts:
        limit = (
            settings.probes.limit if "probes" in settings.stages else settings.temperature.prompts
        )
        try:
            prompts = read_prompts(settings.probes.prompts, limit)
        except InputError as error:
            faults.append(f"config.probes.prompts: {error}")
    readers: dict[str, dict[str, PromptedModel]] = {}
    material = EvalInputs(questions, prompts, readers)
    known: dict[tuple[str, str], PromptedModel] = {}
    for job in [] if faults else jobs:
        plan = job.plan
        try:
            post = _reader(material, plan.post, plan.post, settings, known)
            base = _reader(material, plan.base, plan.post, settings, known)
            readers[job.spec.name] = {"base": base, "post": post}
        except InputError as error:
            faults.append(f"{job.spec.label}: {error}")
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return material


def _reader(
    material: EvalInputs,
    checkpoint: Checkpoint,
    post: Checkpoint,
    settings: Settings,
    known: dict[tuple[str, str], PromptedModel],
) -> PromptedModel:
    """How a checkpoint of a pair reads; a base without a chat template reads by that of post."""
    how, config, note = settings.decoder, model_config(checkpoint.home), ""
    try:
        chat = chat_model(checkpoint, config, how.prompt_format)
    except InputError:
        if checkpoint.path == post.path:
            raise
        chat = chat_model(post, config, how.prompt_format)
        note = "base has no tokenizer or chat template of its own and is asked with those of post"
    key = (str(checkpoint.path), str(chat.directory))
    if key not in known:
        system = SYSTEM if how.system is None else how.system
        known[key] = PromptedModel(
            checkpoint=checkpoint,
            config=config,
            chat=chat,
            questions={
                name: repeat_prompts(chat, some, settings.evaluation.rounds, system=how.system)
                for name, some in material.questions.items()
            },
            prompts=[chat.prompt(one.text, system, one.location).tokens for one in material.prompts],
            note=note,
        )
    return known[key]
