"""Hook of mkdocs (mkdocs.yml): the documents beside docs/ as pages, and the sources they link to.

README.md is the first page. Links are relative to the repository, as GitHub and editors follow
them; on the site they lead to the pages, or to copies of the files.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Documents outside docs/, and the pages that they become."""
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the documents outside docs/, and every file that some page links to."""
    for document, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / document)))
    known = set(files.src_uris)
    for document in [*PAGES, *(f"docs/{uri}" for uri in list(known) if uri.endswith(".md"))]:
        text = (ROOT / document).read_text("utf-8") if (ROOT / document).is_file() else ""
        for link in _LINK.findall(text):
            path = _path(document, link)
            if _uri(path) not in known and (ROOT / path).is_file():
                known.add(_uri(path))
                files.append(File.generated(config, _uri(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turns links between files of the repository into links between those of the site."""
    del config, files
    uri = page.file.src_uri
    document = {uri: path for path, uri in PAGES.items()}.get(uri, f"docs/{uri}")
    here = pathlib.PurePosixPath(uri).parent

    def on_site(link: re.Match[str]) -> str:
        path = _path(document, link[1])
        if not (ROOT / path).is_file():
            return link[1]
        return os.path.relpath(_uri(path), here)

    return _LINK.sub(on_site, markdown)


def _path(document: str, link: str) -> str:
    """Path in the repository that a link of a document leads to."""
    return os.path.normpath(pathlib.PurePosixPath(document).parent / link)


def _uri(path: str) -> str:
    """Place of a file of the repository on the site."""
    return PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else path)
