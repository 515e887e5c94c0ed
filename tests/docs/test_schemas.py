"""The schemas of JSON files explain every field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.schemas import SCHEMAS, validator

NAMES = sorted(path.name.removesuffix(".schema.json") for path in SCHEMAS.iterdir())


def fields(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field that a schema names, with its path."""
    if isinstance(schema, dict):
        for name, field in schema.get("properties", {}).items():
            yield f"{path}.{name}", field
        for key, part in schema.items():
            yield from fields(part, f"{path}.{key}")
    elif isinstance(schema, list):
        for part in schema:
            yield from fields(part, path)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_explained(name: str) -> None:
    schema = validator(name).schema
    assert schema["$id"] == f"{name}.schema.json"
    assert schema["additionalProperties"] is False
    assert not [
        path for path, field in fields(schema) if not ({"description", "$ref"} & field.keys())
    ]
    assert not re.search(r'"description": ""', json.dumps(schema))
    # What is not there, and NaN, are told apart.
    faults = {error.validator for error in validator(name).iter_errors({"another": 1})}
    assert faults == {"required", "additionalProperties"}


def test_the_page_lists_every_schema() -> None:
    page = (SCHEMAS.parent / "json.md").read_text("utf-8")
    assert sorted(re.findall(r"schemas/(\w+)\.schema\.json", page)) == NAMES
