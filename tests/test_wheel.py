"""The wheel: its files, its command, and that it needs no checkout."""

from __future__ import annotations

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.support.commands import ROOT

_PARTS = ("svdjax", "configs", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    pytest.importorskip("setuptools")
    root = tmp_path_factory.mktemp("wheel")
    for part in _PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, root / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, root / part)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True)
    (path,) = (root / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> pathlib.Path:
    """The wheel, unpacked as an installer would."""
    place = tmp_path_factory.mktemp("site")
    wheel.extractall(place)
    return place


def svdjax(site: pathlib.Path, *arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('matplotlib', 'math_verify')))\n"
        "sys.argv[0] = 'svdjax'; from svdjax.__main__ import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(site)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_the_configs(wheel):
    names = set(wheel.namelist())
    listed = subprocess.run(
        ["git", "ls-files", "svdjax", "configs"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    if not listed:
        pytest.skip("needs git to list the files")
    expected = {re.sub("^configs/", "svdjax/configs/", file) for file in listed}
    assert expected <= names
    packaged = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert {name for name in packaged if not name.startswith("svdjax/")} == set()


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    entries = wheel.read(f"{folder}/entry_points.txt").decode()
    assert "svdjax = svdjax.__main__:main" in entries
    about = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert about["Author"] == "svdjax maintainers"
    needed = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any(line.startswith(("matplotlib", "math-verify")) for line in needed)
    assert {"eval", "figures"} <= set(about.get_all("Provides-Extra", []))
    # Links into the checkout would lead nowhere.
    text = about.get_payload()
    assert isinstance(text, str)
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert all(target.startswith(("http", "#")) for target in targets), targets


@pytest.mark.slow
def test_an_empty_folder_is_enough(site, tmp_path):
    done = svdjax(site, "sweep", "--config=reference:quick", "--config.stages=nuls", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no 'nuls', did you mean 'nulls'?" in done.stderr
    models = site / "svdjax" / "reference"
    done = svdjax(
        site,
        *("compare", str(models / "base"), str(models / "instruct")),
        *("--config.stages=spectra", "--config.measure=vectors", "--progress=lines"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "pair" / "pair" / "spectra.npz").is_file()
