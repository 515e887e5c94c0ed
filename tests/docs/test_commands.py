"""Commands and settings that the documents show are there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from svdjax.options import OPTIONS
from tests.docs.test_links import DOCUMENTS, ROOT

TEXT = "\n".join(path.read_text("utf-8") for path in DOCUMENTS).replace("\\\n", " ")
SHOWN = re.findall(r"(?:^|`|6379 )svdjax ([a-z]+)([^`\n#|]*)", TEXT, re.MULTILINE)
COMMANDS = sorted({name for name, _ in SHOWN})


def test_settings_are_there() -> None:
    leaves = set(re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)*)(?==|`)", TEXT))
    assert len(leaves) > 15
    assert leaves <= {*OPTIONS, "base"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_flags_are_there(command: str) -> None:
    pytest.importorskip("svdjax.__main__", reason="there is no command svdjax yet")
    told = subprocess.run(
        [sys.executable, "-m", "svdjax", command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    flags = {
        flag
        for name, arguments in SHOWN
        if name == command
        for flag in re.findall(r"--([a-z_]+)", arguments)
    }
    assert {flag for flag in flags if not re.search(rf"--(\[no\])?{flag}\b", told.stdout)} == set()


def test_configs_are_there() -> None:
    for name in re.findall(r"--config=([a-z]\w+)(?=[:\s`])", TEXT):
        assert (ROOT / "configs" / f"{name}.py").is_file(), name
