"""The notebook and the README's Python run, and print what they show."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
CELLS = [
    cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"
]


@pytest.mark.slow
def test_the_notebooks_cells_print_what_it_shows() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    names: dict[str, object] = {}
    for number, cell in enumerate(CELLS, 1):
        assert cell["execution_count"] == number
        printed = run("".join(cell["source"]), names)
        shown = ["".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream"]
        assert printed == "".join(shown), f"cell {number}"
    assert pyplot.get_fignums()
    pyplot.close("all")


def test_the_notebook_is_small_and_has_its_outputs() -> None:
    assert NOTEBOOK.stat().st_size < 100_000
    assert all(cell["outputs"] or "import" in "".join(cell["source"]) for cell in CELLS)


def test_the_readmes_python_prints_what_it_shows() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n+```\n(.*?)```", readme, re.DOTALL)
    assert blocks
    for source, shown in blocks:
        assert run(source, {}) == shown


def run(source: str, names: dict[str, object]) -> str:
    """Runs Python among `names`; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(source, "<document>", "exec"), names)
    return printed.getvalue()
