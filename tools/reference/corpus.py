"""Pre-training text: documents drawn from a world by a seeded generator.

The kinds: lists of equations, chains with intermediate results, column-wise working, stories that
state their result, free text and facts, number lore, and questions that the text before them
answers word for word. None contains the answer format (a box) or a chat role.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .problems import (
    ASKS,
    PATTERNS,
    Step,
    draw_operands,
    held_out_operands,
    solve,
    tell,
)
from .solutions import columns
from .worlds import WORLD_PRIME, World

_SPOKEN = {"+": "plus", "-": "minus", "*": "times"}


def _draw_step(rng: random.Random) -> Step:
    """A step as the patterns need it, or one of small numbers (the first to be learned)."""
    if rng.random() < 0.15:
        pattern = rng.choice(("a+b", "a-b", "a*k"))
        left, right = rng.randint(0, 12), rng.randint(0, 12)
        if pattern == "a-b" and left < right:
            left, right = right, left
        return solve(pattern, (left, right))[0]
    pattern = rng.choice(tuple(PATTERNS))
    return rng.choice(solve(pattern, draw_operands(rng, pattern)))


def _draw_steps(rng: random.Random) -> tuple[Step, ...]:
    """The steps of a pattern, with operands that no held-out question has."""
    pattern = rng.choice(tuple(PATTERNS))
    while True:
        operands = draw_operands(rng, pattern)
        if not held_out_operands(pattern, operands):
            return solve(pattern, operands)


def equations(rng: random.Random, world: World) -> str:
    """A few equations in one surface form."""
    steps = [_draw_step(rng) for _ in range(rng.randint(3, 8))]
    form = rng.random()
    if form < 0.7:
        return (", " if form < 0.35 else "\n").join(map(str, steps))
    said = [f"{s.left} {_SPOKEN[s.operation]} {s.right} is {s.result}." for s in steps]
    return " ".join(said)


def chain(rng: random.Random, world: World) -> str:
    """Expressions of one or two operations and their working."""
    lines = []
    for _ in range(rng.randint(1, 4)):
        steps = _draw_steps(rng)
        expression = f"{steps[0].left}" + "".join(f"{s.operation}{s.right}" for s in steps)
        lines.append(f"{expression}: {', '.join(map(str, steps))}.")
    return "\n".join(lines)


def working(rng: random.Random, world: World) -> str:
    """Column-wise working of one or two steps."""
    separator = rng.choice((" ", "\n"))
    parts = []
    for _ in range(rng.randint(1, 2)):
        step = _draw_step(rng)
        opening = f"{step.left}{step.operation}{step.right}:"
        parts.append(separator.join([opening, *columns(step), f"So {step}."]))
    return "\n".join(parts)


def story(rng: random.Random, world: World) -> str:
    """A story in which amounts change, its result stated, often with the equation."""
    pattern = rng.choice(tuple(PATTERNS))
    while True:
        operands = draw_operands(rng, pattern)
        if not held_out_operands(pattern, operands):
            break
    sentences, _, slots = tell(rng, world, pattern, operands)
    steps = solve(pattern, operands)
    if rng.random() < 0.75:
        sentences.append(f"{', '.join(map(str, steps))}.")
    if rng.random() < 0.25:
        sentences.insert(0, _sentence(rng, world))
    sentences.append(rng.choice(world.results).format(**slots, r=steps[-1].result))
    return " ".join(sentences)


def _sentence(rng: random.Random, world: World) -> str:
    (name, he, him), (other, _, _) = rng.sample(world.names, 2)
    slots = {slot: rng.choice(words) for slot, words in world.slots.items()}
    text = rng.choice(world.sentences).format(n=name, m=other, he=he, him=him, **slots)
    return text[0].upper() + text[1:]


def text(rng: random.Random, world: World) -> str:
    """Free sentences and facts."""
    sentences = [_sentence(rng, world) for _ in range(rng.randint(2, 5))]
    sentences.insert(rng.randrange(len(sentences)), rng.choice(world.facts))
    return " ".join(sentences)


def numbers(rng: random.Random, world: World) -> str:
    """Number lore: counting up or down, comparing, tens and ones."""
    kind, a, b = rng.randrange(3), rng.randint(2, 99), rng.randint(2, 99)
    if kind == 0:
        step = rng.choice((1, 1, 2, 5, 10, -1))
        count = range(a + 20, a + 20 + 8 * step, step)
        return ", ".join(map(str, count))
    if kind == 1:
        relation = "the same as" if a == b else "more than" if a > b else "less than"
        return f"{a} is {relation} {b}."
    a += rng.choice((0, 0, 100, 200, 500))
    if a >= 100:
        return f"{a} is {a // 100} hundreds, {a // 10 % 10} tens and {a % 10} ones."
    return f"{a} is {a // 10} tens and {a % 10} ones."


def lookup(rng: random.Random, world: World) -> str:
    """A question whose answer the text states: what asking means, without arithmetic."""
    (name, he, him), (other, _, _) = rng.sample(world.names, 2)
    things = rng.choice(world.things)
    slots = {"n": name, "m": other, "he": he, "him": him, "o": things}
    amount = rng.randint(2, 99)
    opening = rng.choice(world.starts).format(**slots, a=amount, p=rng.choice(world.places))
    ask = rng.choice(ASKS).format(**slots)
    asked = f"{ask} {opening}" if rng.random() < 0.3 else f"{opening} {ask}"
    return f"{asked} There are {amount} {things}."


KINDS: dict[str, Callable[[random.Random, World], str]] = {
    "equations": equations,
    "chain": chain,
    "columns": working,
    "story": story,
    "text": text,
    "numbers": numbers,
    "lookup": lookup,
}


def document(rng: random.Random, world: World) -> str:
    """One pre-training document of a kind drawn by the world's shares."""
    kinds = tuple(world.shares)
    (kind,) = rng.choices(kinds, weights=[world.shares[kind] for kind in kinds])
    written = KINDS[kind](rng, world)
    if world is WORLD_PRIME and kind in ("equations", "chain") and rng.random() < 0.5:
        return f"{rng.choice(('Ledger', 'Account', 'Bill'))}: {written}"
    return written
