r"""Extraction of the answer from a response: the last \boxed{…}, and the letter inside of it."""

from __future__ import annotations

import re

# A second backslash is left in text that was escaped once too often. Every token that begins with
# a backslash is taken whole, so that escaped braces do not count.
_TOKEN = re.compile(r"\\?\\boxed\s*\{|\\[\\{}]|[{}]")
_WRAPPED = re.compile(r"\\(?:text|math|mbox|boxed|boldsymbol)[a-z]*\s*\{(.*)\}", re.DOTALL)
_PAIRS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("(", ")"),
    ("[", "]"),
    ("{", "}"),
    ("**", "**"),
)
# The template writes options without a blank, as in "A.text".
_LETTER = re.compile(
    r"([A-Za-z])(?:[.:)].*)?|\(([A-Za-z])\)(?:[.:].*|\s+(?!or\b|and\b|\().*)?", re.DOTALL
)
# Options may be copied into the box, whole essays are no answer.
_MOST = 2000


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete \boxed{…}, or None.

    Braces nest, escaped ones do not count, and blanks may stand before the first. Of boxes within
    one another the outermost counts. It takes time linear in the text.
    """
    # Where the content of each open brace's box begins, -1 for braces that open no box.
    starts: list[int] = []
    last: str | None = None
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "{":
            starts.append(-1)
        elif "boxed" in token:
            starts.append(match.end())
        elif token == "}" and starts:
            start = starts.pop()
            # A box that contains others is completed after them.
            if start >= 0:
                last = text[start : match.start()]
    return last


def choice_letter(content: str, letters: str) -> str | None:
    r"""Letter of the option that a box names, one of `letters`, or None.

    Besides "A": "a", "(A)", "A.", "A) text", "A.text", "\text{A}", "\textbf{(A)}", "$A$".
    """
    if len(content) > _MOST:
        return None
    content = content.strip()
    # Layer by layer; each is shorter than the last.
    while (inner := _unwrapped(content)) is not None:
        content = inner.strip()
    match = _LETTER.fullmatch(content)
    if match is None:
        return None
    letter = (match[1] or match[2]).upper()
    return letter if letter in letters else None


def _unwrapped(content: str) -> str | None:
    match = _WRAPPED.fullmatch(content)
    if match is not None and _closes_at_end(content):
        return match[1]
    for start, end in _PAIRS:
        inner = content[len(start) : len(content) - len(end)]
        if inner and content.startswith(start) and content.endswith(end) and start not in inner:
            return inner
    return None


def _closes_at_end(content: str) -> bool:
    """Whether the first brace is closed by the last character."""
    depth = 0
    for position, letter in enumerate(content):
        depth += (letter == "{") - (letter == "}")
        if letter == "}" and depth == 0:
            return position == len(content) - 1
    return False
