"""Null models: random signs or directions of the same change. Stage, verdicts, page."""
