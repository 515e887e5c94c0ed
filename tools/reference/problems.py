"""Arithmetic word problems with a fixed difficulty and a fixed split.

A problem is a pattern (`a+b-c`), operands up to 99 and a template: which sentence opens the story,
which tell its events, which asks, and whether the question comes first. Two things are held out
for good, by checksum, so that no list has to be kept: one operand tuple in `OPERAND_MODULUS`
of each pattern, and one template in `TEMPLATE_MODULUS`. Training questions use neither.
"""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Iterator

from .worlds import WORLD, World

PATTERNS: dict[str, str] = {
    "a+b": "+",
    "a-b": "-",
    "a*k": "*",
    "a+b+c": "++",
    "a+b-c": "+-",
    "a-b+c": "-+",
    "a-b-c": "--",
    "a*k+b": "*+",
    "a*k-b": "*-",
}
"""Pattern name -> its operations, applied from left to right."""

ASKS = (
    "How many {o} does {n} have now?",
    "How many {o} are there now?",
    "How many {o} are there in the end?",
    "What is the number of {o} now?",
    "Find the number of {o} in the end.",
    "How many {o} are there in all?",
)
OPERAND_MODULUS = 12
TEMPLATE_MODULUS = 6
MAX_OPERAND = 99
HELDOUT_SEED = 5
HELDOUT_PER_PATTERN = 50


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation, written `left+right=result`: without spaces, which would be tokens."""

    left: int
    operation: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.operation}{self.right}={self.result}"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One question with its answer and the steps that lead there."""

    pattern: str
    operands: tuple[int, ...]
    template: str
    question: str
    steps: tuple[Step, ...]
    things: str

    @property
    def answer(self) -> int:
        """The last step's result."""
        return self.steps[-1].result

    @property
    def template_seen(self) -> bool:
        """Whether training may show the template."""
        return not held_out_template(self.template)


def _checksum(text: str) -> int:
    return zlib.crc32(text.encode())


def held_out_operands(pattern: str, operands: tuple[int, ...]) -> bool:
    """Whether no training question of this pattern may have these operands."""
    return _checksum(f"operands {pattern} {operands}") % OPERAND_MODULUS == 0


def held_out_template(template: str) -> bool:
    """Whether no training question may be told with this template."""
    return _checksum(f"template {template}") % TEMPLATE_MODULUS == 0


def solve(pattern: str, operands: tuple[int, ...]) -> tuple[Step, ...]:
    """The steps of `pattern` from left to right."""
    steps, total = [], operands[0]
    for operation, right in zip(PATTERNS[pattern], operands[1:], strict=True):
        result = {"+": total + right, "-": total - right, "*": total * right}[operation]
        steps.append(Step(total, operation, right, result))
        total = result
    return tuple(steps)


def draw_operands(rng: random.Random, pattern: str) -> tuple[int, ...]:
    """Operands from 2 to 99 (factors k from 2 to 9) with every intermediate result >= 0."""
    while True:
        operands = [rng.randint(2, MAX_OPERAND)]
        operands += [rng.randint(2, 9 if op == "*" else MAX_OPERAND) for op in PATTERNS[pattern]]
        if all(step.result >= 0 for step in solve(pattern, tuple(operands))):
            return tuple(operands)


def tell(
    rng: random.Random, world: World, pattern: str, operands: tuple[int, ...]
) -> tuple[list[str], list[int], dict[str, object]]:
    """The story of a pattern: its sentences, which phrases were chosen, the filled slots."""
    (name, he, him), (other, _, _) = rng.sample(world.names, 2)
    slots: dict[str, object] = {
        "n": name, "m": other, "he": he, "him": him,
        "o": rng.choice(world.things), "p": rng.choice(world.places),
    }  # fmt: skip
    operations, rest = PATTERNS[pattern], operands[1:]
    openings = world.starts
    slots["a"] = operands[0]
    if operations[0] == "*":
        openings, slots["k"] = world.groups, operands[1]
        operations, rest = operations[1:], rest[1:]
    chosen = [rng.randrange(len(openings))]
    sentences = [openings[chosen[0]].format(**slots)]
    for operation, right in zip(operations, rest, strict=True):
        events = world.gains if operation == "+" else world.losses
        chosen.append(rng.randrange(len(events)))
        sentences.append(events[chosen[-1]].format(**slots, x=right))
    return sentences, chosen, slots


def draw_problem(rng: random.Random, pattern: str, operands: tuple[int, ...]) -> Problem:
    """One way of telling and asking a problem, with any template."""
    sentences, chosen, slots = tell(rng, WORLD, pattern, operands)
    ask, first = rng.randrange(len(ASKS)), rng.random() < 0.2
    question = ASKS[ask].format(**slots)
    sentences = [question, *sentences] if first else [*sentences, question]
    order = "ask-first" if first else "ask-last"
    template = f"{pattern}/{'.'.join(map(str, chosen))}/{ask}/{order}"
    return Problem(
        pattern, operands, template, " ".join(sentences), solve(pattern, operands), str(slots["o"])
    )


def training_problem(rng: random.Random) -> Problem:
    """A question that training may show: neither its operands nor its template are held out."""
    pattern = rng.choice(tuple(PATTERNS))
    while True:
        operands = draw_operands(rng, pattern)
        if not held_out_operands(pattern, operands):
            break
    while True:
        problem = draw_problem(rng, pattern, operands)
        if problem.template_seen:
            return problem


def heldout_problems(
    seed: int = HELDOUT_SEED, per_pattern: int = HELDOUT_PER_PATTERN
) -> Iterator[Problem]:
    """Held-out questions: held-out operands, every second one with a template never trained."""
    rng = random.Random(f"heldout {seed}")
    for index in range(per_pattern):
        for pattern in PATTERNS:
            while True:
                operands = draw_operands(rng, pattern)
                if held_out_operands(pattern, operands):
                    break
            while True:
                problem = draw_problem(rng, pattern, operands)
                if problem.template_seen == (index % 2 == 0):
                    yield problem
                    break
