"""docs/adding_a_family.md shows the code that is there."""

from __future__ import annotations

import dataclasses
import pathlib
import re

from svdjax.checkpoint import FAMILIES
from svdjax.checkpoint.config import ModelConfig
from tests.support import tiny

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding_a_family.md").read_text(encoding="utf-8")
SHOWN = (
    *("svdjax/checkpoint/families.py", "svdjax/checkpoint/defaults.py"),
    *("tests/support/tiny.py", "tests/model/variants.py"),
)


def test_every_line_it_shows_is_there() -> None:
    lines = {
        line.strip() for file in SHOWN for line in (ROOT / file).read_text("utf-8").splitlines()
    }
    blocks = re.findall(r"```python\n(.*?)```", PAGE.split("## Multimodal")[0], re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        assert not [line for line in block.splitlines() if line.strip() not in lines]


def test_it_names_every_option_and_file() -> None:
    for name in re.findall(r"\]\(\.\./(.*?)\)", PAGE) + re.findall(r"`(tests/\S+\.py)`", PAGE):
        assert (ROOT / name).exists(), name
    rows = PAGE.split("| --- | --- | --- |\n")[1].split("\n\n")[0].splitlines()
    shown = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    read = {"tie_word_embeddings", "rms_norm_eps", "rope", "local_rope", "windows", "family"}
    sizes = {each.name for each in dataclasses.fields(ModelConfig) if each.type == "int"}
    assert shown | read | sizes == {each.name for each in dataclasses.fields(ModelConfig)}
    assert set(tiny.FAMILIES) == set(FAMILIES)
