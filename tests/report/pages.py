"""Reading a page as a browser without code would: tags, attributes, text, nesting, links."""

from __future__ import annotations

import base64
import gzip
import html.parser
import json
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdjax.sweep.pages import write_report

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison

HOSTILE = "<script>alert('x')</script>\"&{{ 7 * 7 }}\ud800../..%2f"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks the nesting."""

    def __init__(self, path: pathlib.Path):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += data


def assert_self_contained(path: pathlib.Path) -> Page:
    """Nothing comes from outside, and only the page's own code runs; returns the page."""
    page = Page(path)
    assert not {"link", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if tag == "script":
            assert set(attributes) <= {"type", "id"}
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}) in page.tags
    without_code = re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.S)
    assert not re.search(r"url\(|@import|https?:", without_code)
    return page


def meta_of(path: pathlib.Path) -> Any:
    """What the page's code takes, but the arrays."""
    packed = re.search(r'id="meta">([^<]*)<', path.read_text(encoding="utf-8"))
    assert packed
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def pair_page(
    comparison: Comparison,
    folder: pathlib.Path,
    *,
    results: Mapping[str, Any] | None = None,
    paper: str = "",
    **options: Any,
) -> pathlib.Path:
    """Writes the page of one pair, ``pair``, in a folder; `results` are by stage."""
    stages = {name: {"pair": each} for name, each in (results or {}).items() if each is not None}
    papers = {"pair": paper} if paper else {}
    return write_report(folder, {"pair": comparison}, papers=papers, results=stages, **options)


def assert_links_lead_somewhere(path: pathlib.Path) -> None:
    """Every link is an anchor of the page or a file beside it, its anchor too."""
    for tag, attributes in Page(path).tags:
        href = attributes.get("href")
        if tag == "a" and href and not href.partition("#")[2].startswith("pair="):
            name, _, anchor = href.partition("#")
            target = path.parent / name if name else path
            assert target.is_file(), href
            if anchor:
                assert anchor in {found.get("id") for _, found in Page(target).tags}, href
