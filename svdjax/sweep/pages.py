"""Pages of a sweep: one for each pair, and their index. matplotlib is loaded with the first one."""

from __future__ import annotations

import pathlib
from typing import Any


def write_pair(*args: Any, **options: Any) -> pathlib.Path:
    """Writes the page of a pair; see `svdjax.sweep.pair_page.write_pair`."""
    from svdjax.sweep import pair_page

    return pair_page.write_pair(*args, **options)


def write_index(*args: Any, **options: Any) -> pathlib.Path:
    """Writes the page of all pairs; see `svdjax.sweep.index_page.write_index`."""
    from svdjax.sweep import index_page

    return index_page.write_index(*args, **options)
