"""What random signs or directions of the same change would show: stage, verdicts, page."""
