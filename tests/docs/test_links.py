"""Links between the documents lead somewhere, and the site that is made of them builds."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "studies").glob("*.md")),
]
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(document: pathlib.Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    text = _FENCED.sub("", document.read_text("utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _within(document: pathlib.Path) -> pathlib.Path:
    return document.relative_to(ROOT / "docs")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: pathlib.Path) -> None:
    text = _FENCED.sub("", document.read_text("utf-8"))
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.is_file(), f"{link}: there is no such file"
        assert target.resolve().is_relative_to(ROOT), f"{link}: outside the repository"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


def test_the_site_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("needs mkdocs-material: pip install svdjax[docs]")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    for document in DOCUMENTS:
        names = {"README": "index.html", "CONTRIBUTING": "contributing.html"}
        page = names.get(document.stem) or _within(document).with_suffix(".html")
        text = (tmp_path / page).read_text("utf-8")
        # Nothing is fetched when a page is opened.
        assert not re.search(r'<(?:script|img|link)[^>]*(?:src|rel="stylesheet" href)="http', text)
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [_within(path).as_posix() for path in DOCUMENTS[2:]]
    missing = [page for page in pages if f": {page}" not in navigation]
    assert not missing
