"""Steps of a run: which directories they are, in which order, and the pairs they make."""

from __future__ import annotations

import pathlib

import pytest

from svdjax.errors import InputError
from svdjax.sweep.config import read_config
from svdjax.sweep.trajectory import find_steps, positions, trajectory_pairs
from tests.test_options import load


def make(folder: pathlib.Path, *names: str, mark: str = "config.json") -> pathlib.Path:
    for name in names:
        path = folder / name / mark
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    return folder


def test_steps_are_found_by_their_numbers(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "checkpoint-1000", "checkpoint-200", "final", "logs")
    make(tmp_path, "30", mark="default/_METADATA")
    make(tmp_path, "step_0007", mark="adapter_config.json")
    make(tmp_path, "2000.orbax-checkpoint-tmp-17")
    (tmp_path / "tensorboard-9").mkdir()
    (tmp_path / "config-5").write_text("a file")
    found = find_steps(tmp_path)
    assert list(found) == ["7", "30", "200", "1000"]
    assert found["7"] == str(tmp_path / "step_0007")


@pytest.mark.parametrize(
    ("names", "empty", "words"),
    [
        ((), (), "no checkpoint in it whose directory's name ends in a number"),
        (("final",), ("step-1",), "no checkpoint in it"),
        (("step-10", "checkpoint-10"), (), "checkpoint-10 and step-10 are both step 10"),
        (("step-10", "step-010"), (), "both step 10"),
        (("step-10", "step-20"), ("step-30",), "step-30: named like the steps beside it"),
    ],
)
def test_runs_that_are_refused(
    tmp_path: pathlib.Path, names: tuple[str, ...], empty: tuple[str, ...], words: str
) -> None:
    make(tmp_path, *names)
    for name in empty:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=words):
        find_steps(tmp_path)


def test_a_run_that_is_not_there() -> None:
    with pytest.raises(InputError, match="steps=/no/such/run cannot be read: No such file"):
        find_steps("/no/such/run")


def test_pairs_are_first_to_each_and_each_to_next_once() -> None:
    points = {"base": "b", "10": "x", "20": "y", "30": "z"}
    pairs = trajectory_pairs(points)
    names = ["base-10", "base-20", "base-30", "10-20", "20-30"]
    assert list(pairs) == names
    assert pairs["10-20"] == {"base": "x", "post": "y"}
    assert list(trajectory_pairs({"0": "x", "5": "y"})) == ["0-5"]


def test_the_base_lies_before_the_steps() -> None:
    assert positions(["base", "10", "20"]) == [0, 10, 20]
    assert positions(["base", "0", "20"]) == [-1, 0, 20]
    assert positions(["0", "20"]) == [0, 20]


def test_config_takes_steps_base_and_every(tmp_path: pathlib.Path) -> None:
    config = load("trajectory").get_config
    make(tmp_path, *(f"step-{number}" for number in range(1, 7)))
    sweep = read_config(config(f"steps={tmp_path},every=2"))
    assert sweep.trajectory == ("1", "3", "5", "6")
    assert [spec.name for spec in sweep.pairs] == ["1-3", "1-5", "1-6", "3-5", "5-6"]
    assert sweep.resolved["trajectory"] == ["1", "3", "5", "6"]
    sweep = read_config(config(f"steps={tmp_path},base=org/name@v1,every=9"))
    assert sweep.trajectory == ("base", "1", "6")
    assert sweep.pairs[0].base == "org/name@v1"
    assert "trajectory" not in read_config(load("pair").get_config("base=a,post=b")).resolved


def test_arguments_of_the_config_that_are_refused(tmp_path: pathlib.Path) -> None:
    config = load("trajectory").get_config
    make(tmp_path, "step-1")
    for argument, words in (
        ("base=x", "steps is not given"),
        (f"steps={tmp_path}", "one step, 1; expected two, or base=DIRECTORY"),
        (f"steps={tmp_path},every=0", "every=0: expected a whole number above 0"),
        (f"steps={tmp_path},evry=2", "evry"),
    ):
        with pytest.raises(InputError, match=words):
            config(argument)
    with pytest.raises(InputError, match="steps=DIRECTORY after its colon"):
        read_config(config())
