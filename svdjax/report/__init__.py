"""Tables, figures and self-contained pages from the results of a comparison.

Knows results only: no checkpoints, no computing. Imported on first use: a sweep whose input is bad
need not load matplotlib to say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdjax.lazy import attributes

if TYPE_CHECKING:
    from svdjax.report.fingerprint import write_fingerprint
    from svdjax.report.index import write_index
    from svdjax.report.pair import write_pair
    from svdjax.report.paper_tables import paper_column, paper_keys
    from svdjax.report.probes import write_probes

__all__ = [
    "paper_column",
    "paper_keys",
    "write_fingerprint",
    "write_index",
    "write_pair",
    "write_probes",
]

_HOMES = {
    "paper_column": "paper_tables",
    "paper_keys": "paper_tables",
    "write_fingerprint": "fingerprint",
    "write_index": "index",
    "write_pair": "pair",
    "write_probes": "probes",
}

__getattr__ = attributes(__name__, _HOMES)
