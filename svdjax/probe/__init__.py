"""Attention entropy and CKA of models: command, stage, results, page."""
