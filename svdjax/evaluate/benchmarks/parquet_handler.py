"""Handler of a `worker.Worker` that reads rows of a Parquet file.

Such files come from anywhere, and a few bytes of one may stand for any number of rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any


def prepare() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Function from {"path", "group"} to {"groups", "rows"}, the rows of one group of them."""
    # Arrow's own allocators ask for more than a worker may have.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]

    def read(request: dict[str, Any]) -> dict[str, Any]:
        with pyarrow.parquet.ParquetFile(request["path"], pre_buffer=False) as file:
            if file.num_row_groups <= request["group"]:
                return {"groups": file.num_row_groups, "rows": []}
            table = file.read_row_group(request["group"], use_threads=False)
            rows = [_plain(row) for row in table.to_pylist()]
        return {"groups": file.num_row_groups, "rows": rows}

    return read


def _plain(value: Any) -> Any:
    """What JSON holds; the text of all else."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)[:1000]
