"""The store writes and reads a dataclass by its fields: JSON, arrays, those of nested ones too."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest

from svdjax.engine.store import ADDED, Results, in_npz
from svdjax.errors import InputError


class Arrays(NamedTuple):
    a: np.ndarray
    b: np.ndarray


@dataclass(frozen=True)
class Layer:
    name: str
    shape: tuple[int, int]
    loss: float
    arrays: Arrays = field(metadata=in_npz({"first.npz": ("b", "half"), "second.npz": ("a",)}))

    @property
    def half(self) -> np.ndarray:
        return self.arrays.b / 2


@dataclass(frozen=True)
class Trial(Results):
    FILE = "trial.json"

    pair: str
    axis: list[int]
    layers: dict[str, Layer]
    values: Mapping[str, np.ndarray] = field(metadata=in_npz({"values.npz": ("axis",)}))
    losses: Mapping[str, list[float]] = field(default_factory=dict, metadata=ADDED)
    notes: list[str] = field(default_factory=list)


def trial() -> Trial:
    arrays = Arrays(np.arange(3, dtype=np.int32), np.array([[0.5], [np.nan]]))
    return Trial(
        pair="p",
        axis=[3, 4],
        layers={
            "q": Layer("q", (2, 3), math.nan, arrays),
            "..": Layer("..", (1, 1), 2.0, Arrays(np.zeros(0), np.ones(1, bool))),
        },
        values={"x/y": np.array([1.5], np.float32)},
        losses={"post": [1.0, math.nan]},
    )


def test_fields_say_what_lies_where(tmp_path):
    path = trial().save(tmp_path / "new" / "pair")
    assert json.loads(path.read_text("utf-8")) == {
        "format_version": 1,
        "pair": "p",
        "axis": [3, 4],
        "layers": {
            "q": {"name": "q", "shape": [2, 3], "loss": None},
            "..": {"name": "..", "shape": [1, 1], "loss": 2.0},
        },
        "losses": {"post": [1.0, None]},
        "notes": [],
    }
    names = {}
    for file in path.parent.glob("*.npz"):
        with np.load(file) as held:
            names[file.name] = held.files
    assert names == {
        "first.npz": ["q/b", "q/half", "%2E%2E/b", "%2E%2E/half"],
        "second.npz": ["q/a", "%2E%2E/a"],
        "values.npz": ["axis", "x/y"],
    }


def test_what_is_read_is_what_was_written(tmp_path):
    trial().save(tmp_path)
    again = Trial.load(tmp_path)
    assert again.layers["q"].shape == (2, 3)
    assert math.isnan(again.layers["q"].loss)
    assert math.isnan(again.losses["post"][1])
    assert list(again.values) == ["x/y"]
    for name, layer in trial().layers.items():
        for written, read in zip(layer.arrays, again.layers[name].arrays, strict=True):
            assert written.dtype == read.dtype
            np.testing.assert_array_equal(written, read)


def test_an_added_field_takes_its_default_and_a_name_is_the_key(tmp_path):
    path = trial().save(tmp_path)
    stored = json.loads(path.read_text("utf-8"))
    del stored["losses"], stored["layers"]["q"]["name"]
    path.write_text(json.dumps(stored), "utf-8")
    again = Trial.load(tmp_path)
    assert again.losses == {}
    assert again.layers["q"].name == "q"


def test_an_empty_file_is_not_written(tmp_path):
    dataclasses.replace(trial(), layers={}).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"trial.json", "values.npz"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stored: stored.pop("pair"), "(KeyError: 'pair')"),
        (lambda stored: stored.pop("notes"), "(KeyError: 'notes')"),
        (lambda stored: stored["layers"].update(q=3), "(TypeError: "),
        (lambda stored: stored.update(layers=[]), "(AttributeError: "),
        (lambda stored: stored["layers"].update(r=stored["layers"]["q"]), "(KeyError: 'r/a')"),
    ],
    ids=["no field", "no field with a default", "no object", "no mapping", "no array"],
)
def test_damage_is_one_line(tmp_path, change, words):
    path = trial().save(tmp_path)
    stored = json.loads(path.read_text("utf-8"))
    change(stored)
    path.write_text(json.dumps(stored), "utf-8")
    with pytest.raises(InputError) as told:
        Trial.load(tmp_path)
    assert f"{path} is missing or damaged {words}" in str(told.value)
    assert str(told.value).endswith("; run the sweep again in a new workdir")
