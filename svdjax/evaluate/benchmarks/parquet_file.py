"""Rows of Parquet files, which the hub's datasets are, through the optional pyarrow."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from svdjax.errors import InputError, missing_extra, printable
from svdjax.evaluate.benchmarks.rows import Row
from svdjax.text.worker import Worker, WorkerLost, WorkerUnavailable

_HANDLER = pathlib.Path(__file__).with_name("parquet_handler.py")
_MEMORY = 8 << 30
_SECONDS = 60.0  # for a group of rows


def parquet_rows(path: pathlib.Path, form: str) -> Iterator[Row]:
    """Rows of a Parquet file, group by group, read in a process of its own.

    Args:
        path: The file, which is known to begin as one.
        form: Form of the rows, for errors.

    Raises:
        InputError: It cannot be read, or pyarrow is not installed.
    """
    if missing := missing_extra("pyarrow", "eval", f"{path}: is a Parquet file, which is read by"):
        raise InputError(f"{missing}; or give it as JSON lines")
    worker = Worker(_HANDLER, _MEMORY)
    try:
        group, groups, number = 0, 1, 0
        while group < groups:
            request = {"path": str(path.expanduser().absolute()), "group": group}
            reply = worker.ask(request, _SECONDS)
            if "error" in reply:
                why = printable(" ".join(str(reply["error"]).split()), 200)
                raise InputError(
                    f"{path}: is a Parquet file that cannot be read ({why}); expected {form}"
                )
            for values in reply["rows"]:
                number += 1
                yield Row(values, f"{path}, row {number}", form)
            group, groups = group + 1, reply["groups"]
    except WorkerLost as error:
        raise InputError(f"{path}: is a Parquet file that cannot be read: it {error}") from None
    except WorkerUnavailable as error:
        raise InputError(f"{path}: is a Parquet file, and pyarrow {error}") from None
    finally:
        worker.close()
