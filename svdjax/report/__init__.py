"""Tables, figures and self-contained pages from the results of a comparison.

Knows results only: no checkpoints, no computing.
"""

from svdjax.report.index import write_index
from svdjax.report.pair import write_pair
from svdjax.report.paper_tables import paper_column, paper_keys

__all__ = ["paper_column", "paper_keys", "write_index", "write_pair"]
