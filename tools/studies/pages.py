"""Pages of the studies: templates whose numbers come from the JSON, and whose claims are checked.

    python -m tools.studies.pages

A template (pages/NAME.md) reads the record as `study`, its figures as `f`: ``{{ f.x | value(2) }}``
is an interval, ``{{ f.x.mean | digits(2) }}`` a number, ``{{ f.x | percent }}`` an interval in
percent. ``{{ claim(f.x.low > 0) }}`` stands after a sentence that says so: it writes nothing, and
raises where the figures say otherwise.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
from absl import app

from tools.studies.study import PAGES

TEMPLATES = pathlib.Path(__file__).resolve().parent / "pages"


class UnbackedClaimError(ValueError):
    """A sentence says what the figures do not."""


def render(name: str, record: Mapping[str, Any], templates: pathlib.Path = TEMPLATES) -> str:
    """The page of a study.

    Raises:
        UnbackedClaimError: A claim of the template is not backed by the figures.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    claims = iter(range(1, 1000))

    def claim(holds: object) -> str:
        number = next(claims)
        if not holds:
            raise UnbackedClaimError(f"{name}: claim {number} does not hold")
        return ""

    environment.filters |= {"digits": digits, "value": value, "percent": percent}
    template = environment.get_template(f"{name}.md")
    return template.render(study=record, f=record["figures"], claim=claim)


def digits(number: float, places: int = 2) -> str:
    """A number with so many digits after the point, and a proper minus sign."""
    text = f"{number:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def value(interval: Mapping[str, float], places: int = 2) -> str:
    """``mean (low to high)`` of an interval."""
    low, high = digits(interval["low"], places), digits(interval["high"], places)
    return f"{digits(interval['mean'], places)} ({low} to {high})"


def percent(interval: Mapping[str, float], places: int = 1) -> str:
    """``mean % (low to high)`` of an interval of shares."""
    scaled = {key: 100 * interval[key] for key in ("mean", "low", "high")}
    low, high = digits(scaled["low"], places), digits(scaled["high"], places)
    return f"{digits(scaled['mean'], places)} % ({low} to {high})"


def main(argv: list[str]) -> None:
    """Writes every page whose JSON is there."""
    del argv
    for template in sorted(TEMPLATES.glob("*.md")):
        record = PAGES / f"{template.stem}.json"
        if record.is_file():
            text = render(template.stem, json.loads(record.read_text(encoding="utf-8")))
            page = PAGES / f"{template.stem}.md"
            page.write_text(text, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    app.run(main)
