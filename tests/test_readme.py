"""The Python that the documents show names what there is."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_imports_and_paths_are_there(path):
    text = path.read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        try:
            parsed = ast.parse(block)
        except SyntaxError:
            continue  # lines out of a larger whole
        for node in ast.walk(parsed):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("svdjax"):
                module = importlib.import_module(node.module or "")
                for name in node.names:
                    whole = f"{node.module}.{name.name}"
                    assert hasattr(module, name.name) or importlib.util.find_spec(whole), whole
            elif isinstance(node, ast.Import):
                for name in node.names:
                    assert importlib.util.find_spec(name.name) is not None, name.name
    for file in re.findall(
        r"(?:svdjax|configs|tools|docs|tests)/[\w./-]*\w\.(?:py|md|jsonl?|sh)\b", text
    ):
        assert (ROOT / file).exists(), file
    for command in re.findall(r"python -m (svdjax[\w.]*)", text):
        assert importlib.util.find_spec(command) is not None, command


def test_the_map_is_the_tree():
    """The map of docs/architecture.md has every package and module of svdjax, and nothing else."""
    block = re.search(
        r"## The tree\n+```\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.S
    )
    assert block is not None
    folders: list[str] = []
    listed = set()
    for line in block[1].splitlines():
        entry = re.match(r"((?:  )*)(\S+)", line)
        if entry is None or len(entry[1]) > 4:
            continue  # the rest of a text
        depth = len(entry[1]) // 2
        folders[depth:] = [entry[2]]
        listed.add("".join(folders))
    assert all((ROOT / path).exists() for path in listed)
    package = ROOT / "svdjax"
    modules = {
        f"svdjax/{path.name}{'/' if path.is_dir() else ''}"
        for path in package.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"svdjax/__init__.py"}
    assert {path for path in listed if re.fullmatch(r"svdjax/[\w.]+/?", path)} == modules
