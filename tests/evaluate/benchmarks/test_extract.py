"""The last box of a response, and the letter in it."""

from __future__ import annotations

import time

import pytest

from svdjax.evaluate.benchmarks import choice_letter, last_boxed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("no box, {5}", None),
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {5}", "5"),
        ("\\boxed\n\t{5}", "5"),
        (r"\boxed{}", ""),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{1} \boxed{2\}", r"\{1"),
        (r"\boxed{a \boxed{b} c}", r"a \boxed{b} c"),
        (r"\boxed{a \boxed{b} c} {\boxed{d}", "d"),
        # Only complete boxes count, also inside of one that is not.
        (r"\boxed{5} and \boxed{6", "5"),
        (r"\boxed{5 and \boxed{6}", "6"),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed", None),
        (r"\boxed 5", None),
        (r"} } \boxed{5} } {", "5"),
        # After a line break, and escaped once too often.
        (r"x \\\boxed{5}", "5"),
        (r"x \\boxed{5}", "5"),
        (r"\boxedx{5} \fbox{6} boxed{7}", None),
        (r"\boxed{５\u202e𝟝🦆}", r"５\u202e𝟝🦆"),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected


@pytest.mark.parametrize(
    "noise",
    ["x", "{", "}", "\\", "\\boxed", "\\boxed{", "\\boxed ", " ", "\\{", "\\boxed{}", "{}", "\\\\"],
)
def test_noise_takes_linear_time(noise):
    count = 1_000_000 // len(noise)
    before = time.monotonic()
    last_boxed(noise * count)
    assert last_boxed(noise * (count // 100) + r" \boxed{7}") == "7"
    # A tenth of this is usual; quadratic time would be hours.
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(
    "content",
    [
        *("B", " B ", "b", "(B)", "( b )", "B.", "B. some text", "B.text", "B) text", "B: text"),
        *("(B) text", "(B). text", "[B]", "{B}", "**B**", "B.\nmore"),
        *(r"\text{B}", r"\textbf{(B)}", r"\textbf{B. text}", r"\mathrm{B}", r"\boxed{B}"),
        *("$B$", r"$\text{B}$", r"\(B\)", "$$B$$", r"\text {b}", r"\mathbf{\text{(B)}}"),
    ],
)
def test_letters(content):
    assert choice_letter(content, "ABCD") == "B"


@pytest.mark.parametrize(
    "content",
    [
        *(
            "",
            "E",
            "5",
            "BC",
            "A, B",
            "A and B",
            "A bank",
            "(A) or (B)",
            "(A) (B)",
            "(A), (B)",
            "none",
            "()",
            "{",
            "}{",
        ),
        *("{}", "$", "$$", "(", "A" * 3000, r"\text{A}\text{B}", r"\frac{A}", "Ａ", "ß", r"\text{"),
        *("(" * 500 + "A" + ")" * 500, "\\text{" * 300),
    ],
)
def test_no_letters(content):
    assert choice_letter(content, "ABCD") is None
