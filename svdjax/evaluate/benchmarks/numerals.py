r"""Numbers as responses write them: grouped, with a currency, with a unit.

``200\,000``, ``1,200``, ``$18``, ``18 dollars``, ``18\text{ km/h}``; ``18\%`` is another number
than 18, and ``18 million`` is that many.
"""

from __future__ import annotations

import re
from decimal import Decimal

_MOST = 200
# Between groups of three digits: commas, LaTeX's spaces, and those of typographers.
_GAP = r"(?:,\\!\s*|,|\{,\}|\\[,;:! ]|~|[\u00a0\u2009\u202f])"
_SIGN = r"[+\-\u2212]?"
_MONEY = r"(?:(?:US)?\\?\$|[€£¥₹]|(?:USD|EUR|GBP)\b)"
_PLAIN, _SPACED = (
    re.compile(
        rf"\s*(?P<sign>{_SIGN})\s*{_MONEY}?\s*(?P<inner>{_SIGN})"
        rf"(?P<digits>(?:[0-9]{{1,3}}(?:{gap}[0-9]{{3}})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
    )
    for gap in (_GAP, rf"(?:{_GAP}|\x20)")
)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"
)
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad\b|~")
_WORD = r"[A-Za-zµΩ°²³]+\.?"
_UNIT = re.compile(
    rf"\s*(?:{_MONEY}|(?:°|\^\{{?\\circ\}}?)?\s*"
    rf"(?:{_WORD}(?:\s*[\s/·-]\s*{_WORD}){{0,4}}\s*(?:\^\s*\{{?[23]\}}?)?)?)\s*\.?\s*"
)
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3}
_SCALES |= {"million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"\s*({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
# Words that make another number of it, or join it with one; single letters are variables mostly.
_OTHER = re.compile(
    r"\b(?:(?i:percent|hundreds?|thousands?|[mb]illions?|trillions?|mln|bln|dozens?|pairs?|half|"
    r"halves|thirds?|quarters?|or|and|to|plus|minus|times|over|by|not|if|than|less|more|mod|sqrt)|"
    r"[^\W\dgmshlLC_])\b"
)


def plain_number(text: str) -> Decimal | None:
    """Number that a text is, with at most a currency before it; None for anything else."""
    match = _PLAIN.fullmatch(text.strip()) if len(text) <= _MOST else None
    return None if match is None else _value(match)


def number_with_unit(text: str) -> Decimal | None:
    """Number that a text is, with or without a currency and a unit; None for anything else."""
    if len(text) > _MOST or is_percentage(text):
        return None
    text = _WRAPPED.sub(r" \1 ", text).strip().strip("*").strip()
    match = _SPACED.match(text)
    if match is None:
        return None
    unit, number = _SPACES.sub(" ", text[match.end() :]), _value(match)
    while scale := _SCALE.match(unit):
        number *= _SCALES[scale[1].lower()]
        unit = unit[scale.end() :]
    if _UNIT.fullmatch(unit) is None or _OTHER.search(unit):
        return None
    return number


def is_percentage(text: str) -> bool:
    """Whether a text has a per cent sign or word."""
    return "%" in text or re.search(r"\bper\s?cent\b", text, re.IGNORECASE) is not None


def _value(match: re.Match[str]) -> Decimal:
    number = Decimal(re.sub(r"[^0-9.]", "", match["digits"]))
    minus = sum(sign in "-\u2212" for sign in (match["sign"], match["inner"]) if sign)
    return -number if minus % 2 else number
