"""Machinery that every capability uses: devices, groups, journal, workdir, progress, cost."""
