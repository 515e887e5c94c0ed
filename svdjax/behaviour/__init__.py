"""What an edited model does: its next-token predictions on held-out text, beside the original's."""

from svdjax.behaviour.divergence import Divergence, Divergences
from svdjax.behaviour.texts import Rows, Text, read_texts, tokenise

__all__ = ["Divergence", "Divergences", "Rows", "Text", "read_texts", "tokenise"]
