"""Workdirs that cannot be used are refused in one line before anything is computed."""

from __future__ import annotations

import json
import shutil

import pytest

from svdjax.engine.workdir import Workdir
from svdjax.errors import InputError


@pytest.mark.parametrize("name", ["x" * 300, "~nosuchuser/x"])
def test_a_path_that_cannot_be(tmp_path, name):
    path = name if name.startswith("~") else tmp_path / name
    with pytest.raises(InputError, match="cannot be used"):
        Workdir(path)


def test_a_file_instead_of_a_directory(tmp_path):
    (tmp_path / "w").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Workdir(tmp_path / "w")


def test_something_else_where_results_go(tmp_path):
    (tmp_path / "pair").write_text("")
    with pytest.raises(InputError, match="pair is a file"):
        Workdir(tmp_path).check_places(["pair"])
    (tmp_path / "pair").unlink()
    (tmp_path / "pair" / "report.html").mkdir(parents=True)
    with pytest.raises(InputError, match=r"report\.html is a directory"):
        Workdir(tmp_path).check_places(["pair"])


@pytest.mark.parametrize(
    "state", [[], 1, {"format_version": 1, "stages": []}, {"format_version": 1, "inputs": "x"}]
)
def test_a_sweep_json_of_another_shape(tmp_path, state):
    (tmp_path / "sweep.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="is not the record of a sweep"):
        Workdir(tmp_path).state()


def test_a_difference_is_said_once_where_pairs_repeat_a_leaf(tmp_path):
    there = {"corner": 1, "pairs": {"pair": {"post": 3, "text": 5}}, "post": 3}
    here = {"corner": 2, "pairs": {"pair": {"post": 4, "text": 6}}, "post": 4}
    with pytest.raises(InputError) as caught:
        Workdir(tmp_path).refuse_other({"config": there}, "config", here, "another config")
    said = "corner: 1 there, 2 here; pairs.pair.text: 5 there, 6 here; post: 3 there, 4 here."
    assert said in str(caught.value)


def test_the_lock_is_one_processes(tmp_path):
    first, second = Workdir(tmp_path / "w"), Workdir(tmp_path / "w")
    first.lock()
    with pytest.raises(InputError, match="in use by another sweep"):
        second.lock()
    first.close()
    second.lock()
    second.close()


def test_a_directory_that_is_deleted_or_replaced_holds_no_run(tmp_path):
    place = Workdir(tmp_path / "w")
    place.lock()
    place.write_state({"status": "running"})
    shutil.rmtree(tmp_path / "w")
    with pytest.raises(InputError, match="was deleted or replaced while the sweep was running"):
        place.write_state({"status": "done"})
    assert not (tmp_path / "w").exists()
    other = Workdir(tmp_path / "w")
    other.lock()
    with pytest.raises(InputError, match="was deleted or replaced"):
        place.write_state({"status": "done"})
    other.check_there()
    with pytest.raises(InputError, match=r"spectra\.npz was deleted"):
        other.check_there([tmp_path / "w" / ".lock", tmp_path / "w" / "spectra.npz"])
    place.close()
    other.close()
