"""Rows of benchmark files, line by line: JSON lines, and csv with and without a header."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Iterator

from svdjax.errors import InputError, printable
from svdjax.evaluate.benchmarks.records import GPQA_COLUMNS
from svdjax.evaluate.benchmarks.rows import Row
from svdjax.text.lines import nonblank_lines, parse_record, text_lines

SPLITS = ("dev", "test", "val")
_END = "end of the file"


def jsonl_rows(path: pathlib.Path, form: str) -> Iterator[Row]:
    """Objects of a JSON-lines file.

    Raises:
        InputError: It cannot be read, or a line is not a JSON object.
    """
    for number, line in nonblank_lines(path, form):
        location = f"{path}, line {number}"
        yield Row(parse_record(line, location, f"expected {form}"), location, form)


def gpqa_rows(path: pathlib.Path, form: str) -> Iterator[Row]:
    """Records of a csv file whose first line names the columns.

    Raises:
        InputError: It cannot be read, a column is missing, or a record has too few or many fields.
    """
    header: list[str] | None = None
    for location, record in _csv_records(path, form):
        if header is None:
            header = record
            missing = [column for column in GPQA_COLUMNS if column not in header]
            if missing:
                columns = printable(", ".join(header), 200)
                raise InputError(
                    f"{location}: has no column {', '.join(missing)}, but: {columns}; expected "
                    f"{form}"
                )
            continue
        if len(record) != len(header):
            raise InputError(
                f"{location}: has {len(record)} fields, and the header {len(header)}; "
                f"expected {form}"
            )
        yield Row(dict(zip(header, record)), location, form)


def mmlu_rows(path: pathlib.Path, form: str, split: str) -> Iterator[Row]:
    """Records of one csv file, or of a split's files in a folder, sorted by name.

    Args:
        path: A file of a subject, a folder of such files, or one with folders dev and test.
        form: Form of the records, for errors.
        split: Which files to take where there are several kinds.

    Raises:
        InputError: They cannot be read, or a record has not six fields.
    """
    for file in _mmlu_files(path, form, split):
        subject = file.stem
        for kind in SPLITS:
            subject = subject.removesuffix(f"_{kind}")
        for location, record in _csv_records(file, form):
            if len(record) != 6:
                raise InputError(f"{location}: has {len(record)} fields, not 6; expected {form}")
            question, *choices, answer = record
            values = {"question": question, "choices": choices, "answer": answer}
            yield Row(values | {"subject": subject}, location, form)


def _mmlu_files(path: pathlib.Path, form: str, split: str) -> list[pathlib.Path]:
    try:
        folder = path.expanduser()
        if not folder.is_dir():
            return [path]
        folders = [kind for kind in SPLITS if (folder / kind).is_dir()]
        if folders and split not in folders:
            raise InputError(
                f"{path}: holds {', '.join(folders)}, but no folder {split}; choose another split"
            )
        folder = folder / split if folders else folder
        names = sorted(file.name for file in folder.iterdir())
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected {form}") from None
    by_split = {kind: [name for name in names if name.endswith(f"_{kind}.csv")] for kind in SPLITS}
    splits = [kind for kind in SPLITS if by_split[kind]]
    # A folder of files of one split is taken whichever split is asked for.
    if split not in splits and (folders or len(splits) != 1):
        raise InputError(f"{folder}: holds no *_{split}.csv; expected {form}")
    return [folder / name for name in by_split[split if split in splits else splits[0]]]


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
