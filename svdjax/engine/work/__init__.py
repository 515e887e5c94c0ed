"""Units of work and who does them: this process, or workers on a Ray cluster."""
