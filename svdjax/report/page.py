"""Self-contained pages: figures embedded, all text escaped, nothing from outside."""

from __future__ import annotations

import base64
import pathlib
import re
import struct
from dataclasses import dataclass
from typing import Any

import jinja2
from matplotlib.figure import Figure

from svdjax import __version__
from svdjax.report import style
from svdjax.report.files import write
from svdjax.report.paper_tables import SOURCE


@dataclass(frozen=True)
class Picture:
    """A figure on a page.

    Attributes:
        anchor: Name of the file without suffix, and id on the page.
        title: Its title, with the number of the paper's figure.
        caption: How to read it.
        alt: Text alternative.
        data: The PNG, base64.
        width: Width in CSS pixels.
        height: Height in CSS pixels.
    """

    anchor: str
    title: str
    caption: str
    alt: str
    data: str
    width: int
    height: int


def place(
    figure: Figure, directory: pathlib.Path | None, name: str, title: str, caption: str, alt: str
) -> Picture:
    """Renders a figure for the page, and to ``directory/<name>.png`` unless that is None."""
    data = style.png(figure)
    if directory is not None:
        write(directory / f"{name}.png", data)
    width, height = struct.unpack(">II", data[16:24])
    scale = 96 / style.DPI
    encoded = base64.b64encode(data).decode("ascii")
    return Picture(name, title, caption, alt, encoded, round(width * scale), round(height * scale))


def render(path: pathlib.Path, template: str, **values: Any) -> pathlib.Path:
    """Writes a page from a template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template)
    text = page.render(version=__version__, source=SOURCE, **values)
    # Lone surrogates can come in with a tensor's name; they have no UTF-8.
    return write(path, text.encode("utf-8", "replace"))


def slug(text: str) -> str:
    """A safe file name: letters, digits, ``_`` and ``-``, at most 48 of them."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[-48:].strip("-") or "x"
