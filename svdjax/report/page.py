"""Self-contained pages: data, code and style in one file, all text escaped, no network."""

from __future__ import annotations

import functools
import pathlib
import re
from typing import Any

import jinja2
from markupsafe import Markup

from svdjax import __version__
from svdjax.report.files import write
from svdjax.report.paper_tables import SOURCE

_WEB = pathlib.Path(__file__).parent / "web"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(path: pathlib.Path, template: str, **values: Any) -> pathlib.Path:
    """Writes a page from a template of this package."""
    page = _environment().get_template(template)
    text = page.render(version=__version__, source=SOURCE, file=_file, **values)
    # Lone surrogates can come in with a tensor's name; they have no UTF-8.
    return write(path, text.encode("utf-8", "replace"))


def _file(name: str) -> Markup:
    """A file of this package, as it is."""
    return Markup((_WEB / name).read_text(encoding="utf-8").strip())


def slug(text: str) -> str:
    """A safe file name: letters, digits, ``_`` and ``-``, at most 48 of them."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[-48:].strip("-") or "x"
