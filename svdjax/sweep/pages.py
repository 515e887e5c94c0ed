"""Pages of a sweep: one for each pair, and their index."""

from svdjax.sweep.index_page import write_index
from svdjax.sweep.pair_page import write_pair

__all__ = ["write_index", "write_pair"]
