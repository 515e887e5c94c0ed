r"""Answers that the two post-trained models learn to write, and the reading of an answer.

`short` is one line of working and the box; `long` is a step-by-step solution, digit by digit, with
a check. Both end in `\boxed{...}`, which no pre-training text contains.
"""

from __future__ import annotations

import re

from .problems import Problem, Step

PLACES = ("Ones", "Tens", "Hundreds")
INVERSE = {"+": "-", "-": "+"}
_BOX = re.compile(r"\\boxed\{\s*(-?\d+)\s*\}")


def _digits(number: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number))]


def _columns_add(left: int, right: int) -> list[str]:
    x, y, lines, carry = _digits(left), _digits(right), [], 0
    for place in range(max(len(x), len(y))):
        terms = [digits[place] for digits in (x, y) if place < len(digits)] + [1] * carry
        total = sum(terms)
        text = "+".join(map(str, terms)) + (f"={total}" if len(terms) > 1 else "")
        carry = total // 10
        text += f", write {total % 10}, carry 1" if carry else ""
        lines.append(f"{PLACES[place]}: {text}.")
    if carry:
        lines.append(f"{PLACES[max(len(x), len(y))]}: 1.")
    return lines


def _columns_subtract(left: int, right: int) -> list[str]:
    x, y, lines, borrow = _digits(left), _digits(right), [], 0
    for place, digit in enumerate(x):
        terms = [1] * borrow + ([y[place]] if place < len(y) else [])
        borrow = int(digit < sum(terms))
        top = digit + 10 * borrow
        text = "-".join(map(str, [top, *terms])) + (f"={top - sum(terms)}" if terms else "")
        lines.append(f"{PLACES[place]}: {'borrow, ' if borrow else ''}{text}.")
    return lines


def _columns_multiply(left: int, right: int) -> list[str]:
    lines, carry = [], 0
    digits = _digits(left)
    for place, digit in enumerate(digits):
        total = digit * right + carry
        text = f"{digit}*{right}" + (f"+{carry}" if carry else "") + f"={total}"
        carry = total // 10
        if carry and place + 1 < len(digits):
            text += f", write {total % 10}, carry {carry}"
        lines.append(f"{PLACES[place]}: {text}.")
    return lines


def columns(step: Step) -> list[str]:
    """One line of working per decimal place of `step`, ones first."""
    work = {"+": _columns_add, "-": _columns_subtract, "*": _columns_multiply}[step.operation]
    return work(step.left, step.right)


def short(problem: Problem) -> str:
    r"""The short answer: `47+38=85, 85-21=64. \boxed{64}`."""
    return f"{', '.join(map(str, problem.steps))}. \\boxed{{{problem.answer}}}"


def _check(step: Step) -> str:
    if step.operation == "*":
        return f"Check: {step.right} groups of {step.left} make {step.result}."
    return f"Check: {step.result}{INVERSE[step.operation]}{step.right}={step.left}."


def narrated(problem: Problem) -> str:
    """A long answer that names the things counted, for the tokenizer's sample alone.

    Copying a word from far back is more than blocks of this width learn in a short fine-tuning.
    """
    first, *_ = problem.steps
    lines = [f"We start with {first.left} {problem.things}."]
    for number, step in enumerate(problem.steps, 1):
        lines.append(f"Step {number}: {step.left}{step.operation}{step.right}.")
        lines += [*columns(step), f"So {step}.", _check(step)]
    lines.append(f"The number of {problem.things} is {problem.answer}.")
    lines.append(f"The answer is \\boxed{{{problem.answer}}}")
    return "\n".join(lines)


def long(problem: Problem) -> str:
    """The long answer: the expression, each step digit by digit, restated, checked, the box.

    The rest of the expression is carried along (`So 64+9+26=73+26.`), so that every line follows
    from the few lines before it.
    """
    lines = []
    for number, step in enumerate(problem.steps, 1):
        rest = "".join(f"{later.operation}{later.right}" for later in problem.steps[number:])
        expression = f"{step.left}{step.operation}{step.right}{rest}"
        if number == 1:
            lines.append(f"We start with {expression}.")
        lines.append(f"Step {number}: {expression}.")
        lines += [*columns(step), f"So {expression}={step.result}{rest}.", _check(step)]
    lines.append(f"The answer is \\boxed{{{problem.answer}}}")
    return "\n".join(lines)


def boxed(text: str) -> int | None:
    """The last number in a box of `text`, or None."""
    numbers = _BOX.findall(text)
    return int(numbers[-1]) if numbers else None


def last_number(text: str) -> int | None:
    """The last number of `text`, for a lenient reading of a model that knows no box."""
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else None
