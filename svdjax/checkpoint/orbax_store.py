"""Orbax in one process, and without its chatter."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_orbax() -> Iterator[tuple[Any, Any]]:
    """Orbax, and the options of a process that waits for no other; its log is held back.

    Orbax tells of every file, and of whatever we handle ourselves, through absl. The level of that
    log is the user's, so only what comes from Orbax is left out.
    """
    from absl.logging import get_absl_logger

    log = get_absl_logger()
    log.addFilter(_is_not_from_orbax)
    try:
        # Here, because it takes half a second, and jax is to be loaded as late as possible.
        import jax
        import orbax.checkpoint as ocp

        # No barriers: other jax processes need not come this way at the same time.
        yield (
            ocp,
            ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(), active_processes={jax.process_index()}
            ),
        )
    finally:
        log.removeFilter(_is_not_from_orbax)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
