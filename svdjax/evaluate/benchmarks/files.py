"""Rows of benchmark files of any form: JSON lines, a JSON list, csv, Parquet; and of folders."""

from __future__ import annotations

import csv
import io
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from svdjax.errors import InputError, printable
from svdjax.evaluate.benchmarks.parquet_file import parquet_rows
from svdjax.evaluate.benchmarks.records import GPQA_COLUMNS
from svdjax.evaluate.benchmarks.rows import Row
from svdjax.files import open_regular, read_bytes
from svdjax.text.lines import expanded, nonblank_lines, parse_record, text_lines

SPLITS = ("dev", "test", "val")
_END = "end of the file"
_MOST_LIST = 64 << 20  # bytes of a JSON list, which is parsed at once


def object_rows(path: pathlib.Path, form: str, columns: Sequence[str]) -> Iterator[Row]:
    """Rows with named fields, whatever the file's form.

    Args:
        path: The file.
        form: Form of the records, for errors.
        columns: Fields that every row has; the first line of a csv file names them.

    Raises:
        InputError: It cannot be read, or a row is not of the form.
    """
    kind = _kind(path)
    if kind == "parquet":
        return parquet_rows(path, form)
    if kind == "list":
        return _list_rows(path, form)
    if kind == "text" and (path.suffix == ".csv" or _names_columns(path, form, columns)):
        return _table_rows(path, form, columns)
    return _line_rows(path, form)


def mmlu_file_rows(path: pathlib.Path, form: str, subject: str) -> Iterator[Row]:
    """Rows of a file of MMLU: named fields, or csv with or without a header.

    Args:
        path: The file.
        form: Form of the records, for errors.
        subject: That of rows which name none.

    Raises:
        InputError: It cannot be read, or a csv record has not six fields.
    """
    if _kind(path) != "text":
        for row in object_rows(path, form, ()):
            values = {"subject": subject} | {k: v for k, v in row.values.items() if v is not None}
            yield Row(_with_choices(values), row.location, form)
        return
    header: dict[str, int] | None = None
    for number, (location, record) in enumerate(_csv_records(path, form)):
        if number == 0 and (header := _mmlu_header(record)) is not None:
            width = len(record)
            continue
        if header is None:
            if len(record) != 6:
                raise InputError(f"{location}: has {len(record)} fields, not 6; expected {form}")
            question, *choices, answer = record
            values = {"question": question, "choices": choices, "answer": answer}
        else:
            if len(record) != width:
                raise _ragged(location, record, width, form)
            values = _with_choices({name: record[index] for name, index in header.items()})
        yield Row({"subject": subject} | values, location, form)


def _with_choices(values: dict[str, Any]) -> dict[str, Any]:
    """Fields with those of A to D as a list of choices."""
    if "choices" not in values and "options" in values:
        return values | {"choices": values["options"]}
    if "choices" in values or not all(letter in values for letter in "ABCD"):
        return values
    return values | {"choices": [values[letter] for letter in "ABCD"]}


def _mmlu_header(record: Sequence[str]) -> dict[str, int] | None:
    """Columns by name, where a csv record names them: question, A to D and answer."""
    names = {}
    for index, text in enumerate(record):
        name = re.sub(r"^(?:options?|choices?)(?=[ _]?[a-d]$)|[ _]", "", text.strip().lower())
        name = {"prompt": "question", "input": "question", "target": "answer"}.get(name, name)
        names[name.upper() if len(name) == 1 else name] = index
    wanted = ("question", *"ABCD", "answer", "subject")
    if not all(name in names for name in wanted[:-1]):
        return None
    return {name: names[name] for name in wanted if name in names}


def gpqa_rows(path: pathlib.Path, form: str) -> Iterator[Row]:
    """Rows of GPQA, whose csv file's first line names the columns.

    Raises:
        InputError: It cannot be read, a column is missing, or a record has too few or many fields.
    """
    if _kind(path) == "text":
        return _table_rows(path, form, GPQA_COLUMNS)
    return object_rows(path, form, GPQA_COLUMNS)


def _kind(path: pathlib.Path) -> str:
    """Form of a file by how it begins: "parquet", "list", "lines" or "text"."""
    with open_regular(expanded(path)) as stream:
        head = stream.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return {b"[": "list", b"{": "lines"}.get(text[:1], "text")


def _line_rows(path: pathlib.Path, form: str) -> Iterator[Row]:
    """Objects of a JSON-lines file."""
    for number, line in nonblank_lines(path, form):
        location = f"{path}, line {number}"
        yield Row(parse_record(line, location, f"expected {form}"), location, form)


def _list_rows(path: pathlib.Path, form: str) -> Iterator[Row]:
    """Objects of a JSON list."""
    content = read_bytes(expanded(path), _MOST_LIST)
    try:
        records = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        why = printable(str(error), 200)
        raise InputError(
            f"{path}, line {line}: is not valid JSON ({why}); expected {form}"
        ) from None
    for number, record in enumerate(records, 1):
        location = f"{path}, record {number}"
        if not isinstance(record, Mapping):
            raise InputError(f"{location}: expected {form}, found {type(record).__name__}")
        yield Row(record, location, form)


def _names_columns(path: pathlib.Path, form: str, columns: Sequence[str]) -> bool:
    """Whether the first record of a text, read as csv, names the columns."""
    _, record = next(_csv_records(path, form), ("", []))
    return set(columns) <= set(record)


def _table_rows(path: pathlib.Path, form: str, columns: Sequence[str]) -> Iterator[Row]:
    """Records of a csv file whose first line names the columns."""
    header: list[str] | None = None
    for location, record in _csv_records(path, form):
        if header is None:
            header = record
            missing = [column for column in columns if column not in header]
            if missing:
                names = printable(", ".join(header), 200)
                raise InputError(
                    f"{location}: has no column {', '.join(missing)}, but: {names}; expected {form}"
                )
            continue
        if len(record) != len(header):
            raise _ragged(location, record, len(header), form)
        yield Row(dict(zip(header, record)), location, form)


def _ragged(location: str, record: Sequence[str], width: int, form: str) -> InputError:
    return InputError(
        f"{location}: has {len(record)} fields, and the header {width}; expected {form}"
    )


def _csv_records(path: pathlib.Path, form: str) -> Iterator[tuple[str, list[str]]]:
    """Records that are not blank, each with file and line of its beginning."""
    # Quotes inside of fields are common in these files, so the reader is not a strict one. A last
    # line is added: if it is a record of its own, the last quote was closed.
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        for _, line in text_lines(path, form):
            # A carriage return ends a line too.
            yield from io.StringIO(line, newline="")
        ended = True
        yield _END

    reader, location = csv.reader(lines()), f"{path}, line 1"
    try:
        for record in reader:
            if ended and record != [_END]:
                raise InputError(
                    f"{location}: a quote is not closed until the end of the file, which may be "
                    f"cut off; expected {form}"
                )
            if record and not ended:
                yield location, record
            location = f"{path}, line {reader.line_num + 1}"
    except csv.Error as error:
        raise InputError(f"{location}: {error}; expected {form}") from None
