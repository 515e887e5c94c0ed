"""Checks of the JSON that commands write against docs/schemas."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import pytest

SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "schemas"
_STAGES = ("summary", "nulls", "constructions", "probes", "evaluation", "temperature")
_OF_SWEEPS = {name: name for name in ("sweep", *_STAGES)}
_OF_COMMANDS = {
    "probe": "probe_record",
    "summary": "evaluate_summary",
    "evaluation": "evaluate_record",
}


@functools.cache
def validator(name: str) -> Any:
    """The validator of a schema, itself checked."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check(path: pathlib.Path, name: str) -> None:
    """Fails with every place in which a file, or a line of one, is not as the schema says."""
    text = path.read_text("utf-8")
    for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
        faults = [
            f"{error.json_path}: {error.message[:200]}"
            for error in validator(name).iter_errors(json.loads(part))
        ]
        assert not faults, (str(path), faults)


def check_files(folder: pathlib.Path) -> set[str]:
    """Checks every JSON file that a command left in its directory, but for saved checkpoints'.

    Returns:
        Names of the schemas that they have.
    """
    names = set()
    of_sweep = (folder / "sweep.json").exists()
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.jsonl")]):
        if (path.parent / "config.json").exists():
            continue
        name = _schema(path, of_sweep=of_sweep)
        check(path, name)
        names.add(name)
    return names


def _schema(path: pathlib.Path, *, of_sweep: bool) -> str:
    """Name of the schema of a file."""
    if path.suffix == ".jsonl":
        return "response"
    if path.parent.name == "tables":
        return "table"
    names = _OF_SWEEPS if of_sweep else _OF_COMMANDS
    assert path.stem in names, f"{path}: none of docs/schemas is for it"
    return names[path.stem]
