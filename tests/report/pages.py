"""Reading a page as a browser would: tags, attributes, text, nesting, links."""

from __future__ import annotations

import html.parser
import pathlib
import re

HOSTILE = "<script>alert('x')</script>\"&{{ 7 * 7 }}\ud800../..%2f"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks the nesting."""

    def __init__(self, path: pathlib.Path):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
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
        self.text += data


def assert_self_contained(path: pathlib.Path) -> Page:
    """Nothing comes from outside and nothing runs; returns the page."""
    page = Page(path)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        source = attributes.get("src")
        assert source is None or source.startswith("data:image/png;base64,")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import|https?:", path.read_text(encoding="utf-8"))
    return page


def assert_links_lead_somewhere(path: pathlib.Path) -> None:
    """Every link is an anchor of the page or a file beside it, its anchor too."""
    for tag, attributes in Page(path).tags:
        href = attributes.get("href")
        if tag == "a" and href:
            name, _, anchor = href.partition("#")
            target = path.parent / name if name else path
            assert target.is_file(), href
            if anchor:
                assert anchor in {found.get("id") for _, found in Page(target).tags}, href
