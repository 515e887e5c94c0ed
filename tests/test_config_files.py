"""Configs by name or path on the command line, and leaves of several words."""

from __future__ import annotations

import pathlib

import pytest

from svdjax.config_files import resolve_arguments, shipped_configs
from svdjax.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def resolved(*arguments: str) -> list[str]:
    return resolve_arguments(["svdjax", *arguments])[0][1:]


def test_the_configs_of_a_checkout_are_found_by_name():
    assert shipped_configs() == {path.stem: path for path in sorted(ROOT.glob("configs/*.py"))}
    pair = str(ROOT / "configs" / "pair.py")
    assert resolved("--config=pair:base=a,post=b:c") == [f"--config={pair}:base=a,post=b:c"]
    assert resolve_arguments(["svdjax", "-config", "pair", "--x"]) == (
        ["svdjax", f"-config={pair}", "--x"],
        "pair",
    )


def test_a_file_goes_before_a_name_and_a_name_before_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("reference").mkdir()
    pathlib.Path("pair").write_text("")
    assert resolved("--config=pair:x") == ["--config=pair:x"]
    assert resolved("--config=reference")[0].endswith("/configs/reference.py")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("refrence:quick", ["refrence does not exist", "did you mean 'reference'"]),
        ("configs/pair.py:base=a", ["configs/pair.py does not exist", "--config=pair"]),
        ("nothing.py", ["nothing.py does not exist", "these ship: ", "reference"]),
        (".", ["is a directory", "svdjax compare BASE POST", "--config=pair:base=.,post=DIR"]),
    ],
)
def test_what_is_no_config_is_told_with_a_remedy(config, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        resolved(f"--config={config}")
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--config.stages=spectra,nulls"], ["--config.stages=('spectra', 'nulls')"]),
        (["--config.stages", "spectra, nulls"], ["--config.stages=('spectra', 'nulls')"]),
        (["--config.variants=replaced"], ["--config.variants=('replaced',)"]),
        (["--config.stages=('spectra',)"], ["--config.stages=('spectra',)"]),
        (["--config.stages='spectra','nulls'"], ["--config.stages='spectra','nulls'"]),
        (["--config.temperature.factors=0.7,1.4"], ["--config.temperature.factors=0.7,1.4"]),
        (["--config.split_fused", "--dry_run"], ["--config.split_fused", "--dry_run"]),
        (["--config.base=a,b", "--workdir=x,y"], ["--config.base=a,b", "--workdir=x,y"]),
    ],
)
def test_words_separated_by_commas_are_a_tuple_where_a_leaf_is_one(given, expected):
    assert resolved(*given) == expected
