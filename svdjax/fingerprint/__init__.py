"""Whether two models share an origin: alignment, statistic, verdict, command, page."""
