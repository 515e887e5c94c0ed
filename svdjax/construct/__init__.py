"""Checkpoints whose singular structure is edited: recipes, command, stage, results, page."""
