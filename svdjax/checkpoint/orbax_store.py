"""Dicts of numpy arrays written and read by Orbax: uncompressed zarr, one process, no chatter."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Form = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and dtype by name."""


def save_arrays(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Write arrays to the folder `path`, with a few JSON-able words about them."""
    with _orbax() as (ocp, checkpointer), ThreadPoolExecutor(1) as thread:
        tree = ocp.args.PyTreeSave(dict(arrays))
        thread.submit(checkpointer.save, path, args=tree, custom_metadata=dict(about)).result()


def restore_arrays(path: pathlib.Path, form: Form) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote, as numpy arrays whatever the devices are.

    Raises:
        ValueError: Names, shapes or dtypes are other than expected; whatever else is damaged
            surfaces as what Orbax runs into.
    """
    with _orbax() as (ocp, checkpointer), ThreadPoolExecutor(1) as thread:
        metadata = thread.submit(checkpointer.metadata, path).result()
        found = {
            name: (tuple(array.shape), np.dtype(array.dtype))
            for name, array in metadata.item_metadata.tree.items()
        }
        if found != form:
            raise ValueError(f"{path.name} holds {found}, expected {form}")
        tree = ocp.args.PyTreeRestore(
            restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in form}
        )
        return thread.submit(
            checkpointer.restore, path, args=tree
        ).result(), metadata.custom_metadata


@contextlib.contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
    """Orbax and a checkpointer of this process alone, with Orbax's log held back.

    It is to be used in a thread of its own: Orbax runs and unsets event loops, and the caller's
    thread may have one (a notebook's has).
    """
    with quiet_orbax() as (ocp, alone):
        handler = ocp.PyTreeCheckpointHandler(
            use_ocdbt=False,  # It would write several small files more.
            use_compression=False,  # It saves 4 % of singular vectors and takes most of the time.
            type_handler_registry=ocp.type_handlers.create_type_handler_registry(
                (np.ndarray, _one_by_one(ocp))
            ),
            multiprocessing_options=alone,
        )
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            yield ocp, checkpointer


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


def _one_by_one(ocp: Any) -> Any:
    """Orbax's handler of numpy arrays, made to deal with one after the other.

    Started together, the others go on after one has failed: they complain on stderr that nobody
    waits for them any more, and write into a folder that is being deleted.
    """

    class OneByOne(ocp.type_handlers.NumpyHandler):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            for value, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values)):
                for written in await super().serialize([value], [info], [arg]):
                    written.result()
            return []

        async def deserialize(self, infos: Any, args: Any = None) -> Any:
            args = args or [ocp.RestoreArgs()] * len(infos)
            return [
                (await super(OneByOne, self).deserialize([i], [a]))[0] for i, a in zip(infos, args)
            ]

        async def metadata(self, infos: Any) -> Any:
            return [(await super(OneByOne, self).metadata([info]))[0] for info in infos]

    # No copy before writing: the caller waits until it is done.
    return OneByOne(deepcopy_host_arrays=False)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
