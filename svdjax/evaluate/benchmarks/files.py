"""Records of benchmark files, line by line: JSON lines, and csv with and without a header."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Iterator

from svdjax.errors import InputError, printable
from svdjax.evaluate.benchmarks.records import GPQA_COLUMNS
from svdjax.evaluate.benchmarks.rows import Row
from svdjax.text.reading import filled_lines, parse_record, text_lines

SPLITS = ("dev", "test", "val")
_END = "end of the file"


def jsonl_rows(where: pathlib.Path, wanted: str) -> Iterator[Row]:
    """The objects of a JSON-lines file.

    Raises:
        InputError: It cannot be read, or a line is not a JSON object.
    """
    for number, line in filled_lines(where, wanted):
        place = f"{where}, line {number}"
        yield Row(parse_record(line, place, f"expected {wanted}"), place, wanted)


def gpqa_rows(where: pathlib.Path, wanted: str) -> Iterator[Row]:
    """The records of a csv file whose first line names the columns.

    Raises:
        InputError: It cannot be read, a column is missing, or a record has too few or many fields.
    """
    header: list[str] | None = None
    for number, record in _csv_records(where, wanted):
        place = f"{where}, line {number}"
        if header is None:
            header = record
            missing = [column for column in GPQA_COLUMNS if column not in header]
            if missing:
                found = printable(", ".join(header), 200)
                raise InputError(
                    f"{place}: has no column {', '.join(missing)}, but: {found}; expected {wanted}"
                )
            continue
        if len(record) != len(header):
            raise InputError(
                f"{place}: has {len(record)} fields, and the header {len(header)}; "
                f"expected {wanted}"
            )
        yield Row(dict(zip(header, record)), place, wanted)


def mmlu_rows(where: pathlib.Path, wanted: str, split: str) -> Iterator[Row]:
    """The records of one csv file, or of a split's in a folder, sorted by name.

    Args:
        where: A file of a subject, a folder of such files, or one with folders dev and test.
        wanted: The form of the records, for errors.
        split: Which files to take where there are several kinds.

    Raises:
        InputError: They cannot be read, or a record has not six fields.
    """
    for path in _mmlu_files(where, wanted, split):
        subject = path.stem
        for kind in SPLITS:
            subject = subject.removesuffix(f"_{kind}")
        for number, record in _csv_records(path, wanted):
            place = f"{path}, line {number}"
            if len(record) != 6:
                raise InputError(f"{place}: has {len(record)} fields, not 6; expected {wanted}")
            question, *choices, answer = record
            values = {"question": question, "choices": choices, "answer": answer}
            yield Row(values | {"subject": subject}, place, wanted)


def _mmlu_files(where: pathlib.Path, wanted: str, split: str) -> list[pathlib.Path]:
    try:
        folder = where.expanduser()
        if not folder.is_dir():
            return [where]
        inside = [kind for kind in SPLITS if (folder / kind).is_dir()]
        if inside and split not in inside:
            raise InputError(
                f"{where}: holds {', '.join(inside)}, but no folder {split}; choose another split"
            )
        folder = folder / split if inside else folder
        names = sorted(path.name for path in folder.iterdir())
    except (OSError, RuntimeError) as error:
        raise InputError(f"{where}: cannot be read ({error}); expected {wanted}") from None
    found = {kind: [name for name in names if name.endswith(f"_{kind}.csv")] for kind in SPLITS}
    kinds = [kind for kind in SPLITS if found[kind]]
    # A folder of one kind needs nobody to say which.
    if split not in kinds and (inside or len(kinds) != 1):
        raise InputError(f"{folder}: holds no *_{split}.csv; expected {wanted}")
    return [folder / name for name in found[split if split in kinds else kinds[0]]]


def _csv_records(where: pathlib.Path, wanted: str) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, each with the number of the line it begins in."""
    # Quotes inside of fields are common in these files, so the reader is not a strict one; that the
    # last quote is closed shows in that what is put after the end is a record of its own.
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        for _, line in text_lines(where, wanted):
            # A carriage return ends a line too.
            yield from io.StringIO(line, newline="")
        ended = True
        yield _END

    reader, begins = csv.reader(lines()), 1
    try:
        for record in reader:
            if ended and record != [_END]:
                raise InputError(
                    f"{where}, line {begins}: a quote is not closed until the end of the file, "
                    f"which may be cut off; expected {wanted}"
                )
            if record and not ended:
                yield begins, record
            begins = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{where}, line {begins}: {error}; expected {wanted}") from None
