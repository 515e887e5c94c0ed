"""Steps of a training run that Orbax wrote, read under the names of Hugging Face.

Axes: `L` layers, `I` in, `O` out.
"""

from __future__ import annotations

import collections
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from svdjax.checkpoint import contents, files, small_json
from svdjax.checkpoint.config import ModelConfig, config_from
from svdjax.checkpoint.families import FAMILIES, Weight
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.safetensors_file import Shard, TensorSpec
from svdjax.checkpoint.watched import WatchedFile
from svdjax.errors import InputError

_TREE, _STEP, _MANIFEST = "_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"
# Directories of config.json: a step, that of all steps, or the one above, where
# tools/train_reference.py has it inside its recipe.json.
_CONFIGS = (("", "config.json"), ("..", "config.json"), ("../..", "config.json"))
_RECIPE = ("../..", "recipe.json")
# Leaves in memory, of all steps together: a sweep goes through a pair one projection after the
# other, and reads ahead.
_MOST_CACHED = 4
_CACHE: collections.OrderedDict[tuple[object, str], np.ndarray] = collections.OrderedDict()
_LOCK = threading.Lock()


class OrbaxCheckpoint(Checkpoint):
    """Parameters of a step, under the names that Hugging Face gives them.

    The step holds a pytree in the layout of `svdjax.checkpoint.load_params` (kernels [L, I, O]), by
    itself or as `params` beside an optimiser's state. A leaf, one projection of all layers, is read
    whole, and a few leaves are held in memory, however many steps are open.

    Attributes:
        folder: Directory of the pytree inside the step.
        settings: File that config was read from.
        documents: All files of the step.
    """

    def __init__(self, source: str | os.PathLike[str], path: pathlib.Path):
        """Reads the tree's metadata and matches it with the family.

        Args:
            source: Name of the step as the user gave it.
            path: Directory of the step.

        Raises:
            InputError: There is no config.json to it, its family has no name table, the tree is
                not one of that family's parameters, or a file is a link out of the step.
        """
        self.source, self.path = os.fspath(source), path
        # Before Orbax reads the step, for it follows every link.
        self.documents = tuple(WatchedFile(file) for file in contents.check_tree(path))
        self.folder = self.listing = _tree_folder(path)
        self.settings, self.config = _settings(path)
        self.files: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = (
            f"{path} was written by Orbax, without checksums of its arrays: a damaged byte of them "
            "is read as another number",
        )
        if self.config.get("model_type") not in FAMILIES:
            raise InputError(
                f"{self.settings.path}: model_type is {self.config.get('model_type')!r}; expected "
                f"one of {', '.join(FAMILIES)}, whose parameters have known places in a pytree"
            )
        config = config_from(self.config, str(self.settings.path))
        self._root, self._leaves = _parameters(_leaves(self.folder), self.folder)
        self._sources: dict[str, tuple[str, tuple[int, ...], bool]] = {}
        self._specs: dict[str, TensorSpec] = {}
        weights = FAMILIES[config.family].present(config)
        faults = [fault for weight in weights if (fault := self._match(weight, config))]
        known = {weight.path for weight in weights}
        faults += [
            f"leaf {leaf} is not part of a {config.family} model with this config.json"
            for leaf in sorted(self._leaves.keys() - known)
        ]
        if faults:
            raise InputError(f"{self.folder}: {files.listed(faults)} ({self.settings.path})")
        self.names = tuple(sorted(self._specs))
        self._key = object()

    def _match(self, weight: Weight, config: ModelConfig) -> str:
        """Notes the leaf and the specs of a weight's tensors; returns its fault, if any."""
        if weight.path not in self._leaves:
            return f"leaf {weight.path} is missing"
        shape, dtype = self._leaves[weight.path]
        if dtype not in FLOATS:
            return f"leaf {weight.path} is {dtype}, expected bf16, f16 or f32"
        leading = weight.leading(config)
        if shape[: len(leading)] != leading:
            sizes = " of ".join(f"{n} {what}" for n, what in zip(leading, ("layers", "experts")))
            return f"leaf {weight.path} has shape {shape}, expected {sizes} first"
        stored = shape[len(leading) :]
        stored = stored[::-1] if weight.transposed else stored
        for place, name in zip(weight.places(config), weight.tensors(config)):
            self._sources[name] = (weight.path, place, weight.transposed)
            self._specs[name] = TensorSpec(stored, dtype, self.folder.name, (0, 0))
        return ""

    @property
    def home(self) -> pathlib.Path:
        """Directory with config.json."""
        return self.settings.path.parent

    def close(self) -> None:
        """Frees the leaves in memory."""
        with _LOCK:
            for key in [key for key in _CACHE if key[0] is self._key]:
                del _CACHE[key]

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of a tensor; raises `InputError` if there is none of that name."""
        if name not in self._specs:
            raise InputError(f"{self.listing}: has no tensor {name}")
        return self._specs[name]

    def where(self, name: str) -> pathlib.Path:
        """Directory of the pytree, for messages."""
        return self.folder

    def stored(self, name: str) -> bool:
        """False: no file holds a tensor's bytes as they are read."""
        return False

    def header(self, file: str) -> Shard:
        """Raises `InputError`: a step has no safetensors files."""
        raise InputError(f"{self.path}: a step written by Orbax has no safetensors file {file}")

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A tensor, matrices as [O, I], or its rows, as `Checkpoint.read`."""
        self.spec(name)
        leaf, place, transposed = self._sources[name]
        tensor = self._leaf(leaf)[place]
        tensor = tensor.T if transposed else tensor
        return np.array(tensor if rows is None else tensor[rows[0] : rows[1]], order="C")

    def check_unchanged(self) -> None:
        """Raises `InputError` if a file of the step has changed since it was first read."""
        for file in (self.settings, *self.documents):
            file.check()

    def _leaf(self, path: str) -> np.ndarray:
        """Leaf of that path, from memory if it is one of the last."""
        key = (self._key, path)
        with _LOCK:
            if key not in _CACHE:
                while len(_CACHE) >= _MOST_CACHED:
                    _CACHE.popitem(last=False)
                _CACHE[key] = self._restored(path)
            _CACHE.move_to_end(key)
            return _CACHE[key]

    def _restored(self, path: str) -> np.ndarray:
        shape, dtype = self._leaves[path]
        self.check_unchanged()
        try:
            leaf = _restore(self.folder, (*self._root, *path.split("/")))
        # Orbax and TensorStore raise whatever they run into.
        except Exception as error:
            raise InputError(
                f"{self.folder}: leaf {path} cannot be read ({files.one_line(error)[:300]})"
            ) from None
        self.check_unchanged()
        if (leaf.shape, leaf.dtype) != (shape, dtype):
            raise InputError(
                f"{self.folder}: leaf {path} is {leaf.dtype} {leaf.shape}, expected {dtype} "
                f"{shape} by {_TREE}"
            )
        return leaf


def is_orbax(path: pathlib.Path) -> bool:
    """Whether a directory is one that Orbax wrote a step to."""
    inside = (path / "default" / _TREE, path / "params" / _TREE, path / _TREE, path / _STEP)
    return any(os.path.lexists(each) for each in inside) and not any(
        os.path.lexists(path / name) for name in (files.SINGLE, files.INDEX)
    )


def _tree_folder(path: pathlib.Path) -> pathlib.Path:
    for folder in (path / "params", path / "default", path):
        if (folder / _TREE).is_file():
            return folder
    raise InputError(
        f"{path}: Orbax wrote it, but there is no pytree in it; expected {_TREE} in default/, "
        "params/ or the step itself"
    )


def _settings(path: pathlib.Path) -> tuple[WatchedFile, dict[str, Any]]:
    """File that holds the model's config.json, and its content."""
    for up, name in (*_CONFIGS, _RECIPE):
        directory = pathlib.Path(os.path.normpath(path.absolute() / up))
        if os.path.lexists(directory / name):
            file = WatchedFile(files.checked_path(directory, name))
            raw = small_json.read_object(file.path)
            raw = raw.get("config") if (up, name) == _RECIPE else raw
            if isinstance(raw, dict):
                return file, raw
    raise InputError(
        f"{path}: a step written by Orbax says nothing of the model; put its config.json into "
        f"{path.parent}"
    )


def _leaves(folder: pathlib.Path) -> dict[tuple[str, ...], tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array of a tree, by its keys."""
    _check_keys(folder)
    try:
        if os.path.lexists(folder / _MANIFEST):
            _check_nodes(folder)
        tree = _metadata(folder)
    except Exception as error:
        raise InputError(
            f"{folder}: cannot be read as what Orbax writes ({files.one_line(error)[:300]})"
        ) from None
    return dict(_walk(tree, ()))


def _check_keys(folder: pathlib.Path) -> None:
    """Checks that no key of a tree, of which Orbax makes names of files, leads out of it."""
    tree = small_json.read_object(files.checked_path(folder, _TREE)).get("tree_metadata")
    for entry in tree.values() if isinstance(tree, dict) else []:
        keys = entry.get("key_metadata") if isinstance(entry, dict) else None
        for key in keys if isinstance(keys, list) else []:
            name = key.get("key") if isinstance(key, dict) else None
            if isinstance(name, str) and (name[:1] == "/" or ".." in name.split("/")):
                raise InputError(f"{folder / _TREE}: names a leaf {name!r}, which leads out of it")


def _check_nodes(folder: pathlib.Path) -> None:
    """Reads all nodes of the database, which have checksums, one by one.

    Waiting for many arrays at once, TensorStore complains on stderr of each that is given up.
    """
    import tensorstore

    base = {"driver": "file", "path": f"{folder}/"}
    tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()


def _walk(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _walk(value, (*keys, str(key)))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _walk(value, (*keys, str(number)))
    elif getattr(node, "shape", None) is not None and getattr(node, "dtype", None) is not None:
        yield keys, (tuple(node.shape), np.dtype(node.dtype))


def _parameters(
    leaves: Mapping[tuple[str, ...], Any], folder: pathlib.Path
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The keys above the parameters, and the leaves below them by path."""
    last = ("embed_tokens", "embedding")
    roots = [keys[:-2] for keys in leaves if keys[-2:] == last]
    # An optimiser's moments have the same names below, and something else above.
    roots = [root for root in roots if not root or root[-1] == "params"]
    if len(roots) != 1:
        raise InputError(
            f"{folder}: expected one pytree of parameters, by itself or under params, found "
            f"{len(roots)} with {'/'.join(last)}"
        )
    (root,) = roots
    size = len(root)
    below = {"/".join(keys[size:]): form for keys, form in leaves.items() if keys[:size] == root}
    return root, below


def _with_orbax(function: Callable[[Any, Any], Any]) -> Any:
    """Result of ``function(orbax, handler)``, in its own thread: Orbax runs and unsets event loops.

    Orbax logs every file, and every error that is handled here, through absl. The level of that
    log is the user's, so only records of Orbax are left out.
    """
    from absl.logging import get_absl_logger

    log = get_absl_logger()
    log.addFilter(_is_not_from_orbax)
    try:
        # Here, because it takes half a second, and jax is to be loaded as late as possible.
        import jax
        import orbax.checkpoint as ocp

        # No barriers: other jax processes need not come this way at the same time.
        host = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=host, active_processes={host})

        def run() -> Any:
            return function(ocp, ocp.PyTreeCheckpointHandler(multiprocessing_options=alone))

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(run).result()
    finally:
        log.removeFilter(_is_not_from_orbax)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _metadata(folder: pathlib.Path) -> Any:
    from etils import epath

    return _with_orbax(lambda _, handler: handler.metadata(epath.Path(folder)).tree)


def _restore(folder: pathlib.Path, path: tuple[str, ...]) -> np.ndarray:
    from etils import epath
    from flax import traverse_util

    def restore(ocp: Any, handler: Any) -> Any:
        item, arguments = (
            traverse_util.unflatten_dict({path: leaf})
            for leaf in (0, ocp.RestoreArgs(restore_type=np.ndarray))
        )
        options = ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
        return handler.restore(epath.Path(folder), args=options)

    restored: Any = traverse_util.flatten_dict(_with_orbax(restore))
    return restored[path]
