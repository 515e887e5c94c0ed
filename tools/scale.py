"""Predicts seconds, operations, bytes and memory of large pairs from this machine's rates.

    python tools/scale.py                        measure this machine, print its rates and the table
    python tools/scale.py --rates=FILE           the table of rates that were measured elsewhere
    python tools/scale.py --posts=3              of a base with three posts
    python tools/scale.py --file_system=5e10     nodes that read 50 GB/s together

Measures a float64 product and symmetric eigenproblems on all devices at once (less than a minute),
and prints Markdown: the rates as JSON, which --rates takes again, and for 1.5B, 7B, 14B and 70B
pairs what `python -m svdjax.sweep` with --config.measure=vectors would take, compiling aside: on 1
to 8 such devices in one process, and on 1 to 8 nodes of 8 with --workers=ray. How the prediction is
made, and how far it was off: docs/scale.md.
"""

from __future__ import annotations

import heapq
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from absl import flags

from svdjax import cli
from svdjax.engine.groups import group_length
from svdjax.engine.process import prepare_process
from svdjax.errors import InputError
from svdjax.sweep.config import Settings

if TYPE_CHECKING:
    from svdjax.engine.cost import Rates

_RATES = flags.DEFINE_string("rates", None, "JSON of rates instead of measuring this machine's.")
_POSTS = flags.DEFINE_integer("posts", 1, "Post models of the one base.", 1)
_SIZES = flags.DEFINE_list(
    "sizes", ["256", "512", "1024", "2048"], "Sizes of the eigenproblems that are measured."
)
_PRODUCT = flags.DEFINE_integer("product", 2048, "Size of the product that is measured.", 64)
_FILE_SYSTEM = flags.DEFINE_float(
    "file_system", 1e10, "Bytes a second that all nodes together read of a shared file system.", 1.0
)

_NODE = 8
"""Devices of a node."""

_RAY_SECONDS = 20.0
"""Until workers compute: Ray, Python and jax on each node. Of two crowded cores, 10 to 25."""

_UNIT_SECONDS = 0.02
"""Of the driver for a unit: 5 to 11 ms to send it and get 2 MB back, and the journal's file."""


@dataclass(frozen=True)
class Model:
    """The linear layers of a model: shapes (I, O) and how many of each a layer has.

    Attributes:
        name: As it is known.
        layers: Its depth.
        matrices: Count by shape.
    """

    name: str
    layers: int
    matrices: Mapping[tuple[int, int], int]


def _decoder(name: str, layers: int, hidden: int, wide: int, kv: int) -> Model:
    counts: dict[tuple[int, int], int] = {}
    for shape, count in (
        ((hidden, hidden), 2),
        ((hidden, kv), 2),
        ((hidden, wide), 2),
        ((wide, hidden), 1),
    ):
        counts[shape] = counts.get(shape, 0) + count
    return Model(name, layers, counts)


MODELS = {
    model.name: model
    for model in (
        _decoder("Qwen2.5-1.5B", 28, 1536, 8960, 256),
        _decoder("Qwen2.5-7B", 28, 3584, 18944, 512),
        _decoder("Qwen2.5-14B", 48, 5120, 13824, 1024),
        _decoder("Llama-3.1-70B", 80, 8192, 28672, 1024),
    )
}
"""Models by name; shapes from their published config.json."""


@dataclass(frozen=True)
class Prediction:
    """Time, operations and memory of a sweep in one process.

    Attributes:
        seconds: Of the whole command, without compiling.
        operations: Floating point operations in all.
        read: Bytes of all matrices, which are read twice.
        device: Bytes on each device.
        host: Bytes of stacks on the host of one process.
    """

    seconds: float
    operations: float
    read: int
    device: int
    host: int


def predict(
    model: Model,
    rates: Rates,
    *,
    devices: int = 1,
    posts: int = 1,
    layers: int | None = None,
    itemsize: int = 2,
) -> Prediction:
    """Predicts ``measure="vectors"`` of a base and its posts, layers spread over the devices.

    All matrices are read once to look for NaN. Then computing, transfer and reading overlap, so the
    slowest of them counts; two groups of one layer for each device are on the host and on the
    devices.
    """
    depth = model.layers if layers is None else layers
    rounds = math.ceil(depth / devices)
    from svdjax.engine.cost import START_SECONDS, pair_cost

    compute, operations, read, device, host = 0.0, 0.0, 0, 0, 0
    for shape, count in model.matrices.items():
        cost = pair_cost(shape, posts=posts, itemsize=itemsize)
        compute += rounds * count * rates.seconds(cost)
        operations += depth * count * cost.operations
        read += depth * count * cost.stored
        one = 2 * itemsize * shape[0] * shape[1]
        device, host = max(device, 2 * one + cost.working), max(host, 2 * devices * one)
    moving = max(read / rates.read, read / devices / rates.transfer)
    return Prediction(
        START_SECONDS + read / rates.read + max(compute, moving),
        operations,
        read,
        device,
        host,
    )


@dataclass(frozen=True)
class ClusterPrediction:
    """Time of a sweep by workers of one device each, on a Ray cluster.

    Attributes:
        seconds: Of the whole command, without compiling.
        units: Of the spectra.
        read: Bytes that each node reads.
        computing: Seconds until the last worker has done its units.
        reading: Seconds of reading all matrices once, of the two times.
        driver: Seconds that the driver is at work for units.
        longest: Seconds of the longest unit.
    """

    seconds: float
    units: int
    read: float
    computing: float
    reading: float
    driver: float
    longest: float

    @property
    def limit(self) -> str:
        """What most of the time goes into."""
        times = {
            "devices": self.computing,
            "file system": 2 * self.reading,
            "driver": self.driver,
            "start": _RAY_SECONDS,
        }
        first = max(times, key=times.__getitem__)
        alone = first == "devices" and self.longest > 0.9 * self.computing
        return "longest unit" if alone else first


def predict_cluster(
    model: Model,
    rates: Rates,
    *,
    nodes: int,
    devices: int = _NODE,
    posts: int = 1,
    file_system: float = 1e10,
    itemsize: int = 2,
) -> ClusterPrediction:
    """Predicts the same of one-device workers that are handed units, the longest first.

    A unit is a group of layers within the budget of bytes. Nothing is exchanged between workers,
    and their results go to the driver while they compute. Nodes read what their workers need, each
    at `rates.read`, all at no more than `file_system` bytes a second.
    """
    from svdjax.engine.cost import START_SECONDS, pair_cost

    units, read = list[float](), 0
    for shape, count in model.matrices.items():
        cost = pair_cost(shape, posts=posts, itemsize=itemsize)
        budget = Settings.group_bytes // (4 if posts > 1 else 1)
        length = group_length(model.layers, budget // (2 * itemsize * shape[0] * shape[1]), 1)
        seconds = max(rates.seconds(cost), cost.stored / rates.transfer)
        units += count * math.ceil(model.layers / length) * [length * seconds]
        read += model.layers * count * cost.stored
    busy = [0.0] * (nodes * devices)
    for unit in sorted(units, reverse=True):
        heapq.heapreplace(busy, busy[0] + unit)
    computing, driver = max(busy), len(units) * _UNIT_SECONDS
    reading = read / min(nodes * rates.read, file_system)
    return ClusterPrediction(
        START_SECONDS + _RAY_SECONDS + reading + max(computing, reading, driver),
        len(units),
        2 * read / nodes,
        computing,
        reading,
        driver,
        max(units),
    )


def cluster_table(
    rates: Rates, counts: Sequence[int] = (1, 2, 4, 8), posts: int = 1, file_system: float = 1e10
) -> str:
    """Markdown: seconds by number of nodes, and where they go on the most nodes."""
    head = ["pair", f"1 x {_NODE}, no Ray", *(f"{count} x {_NODE}" for count in counts)]
    head += ["units", "read per node", "devices", "reading, twice", "driver", "limit"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for model in MODELS.values():
        predictions = [
            predict_cluster(model, rates, nodes=count, posts=posts, file_system=file_system)
            for count in counts
        ]
        last = predictions[-1]
        cells = [
            model.name,
            _time(predict(model, rates, devices=_NODE, posts=posts).seconds),
            *(_time(prediction.seconds) for prediction in predictions),
            str(last.units),
            f"{last.read / 2**30:.1f} GiB",
            _time(last.computing),
            _time(2 * last.reading),
            f"{_time(last.driver)} ({last.driver / last.seconds:.0%})",
            last.limit,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rates: Rates, counts: Sequence[int] = (1, 2, 4, 8), posts: int = 1) -> str:
    """Markdown: seconds, operations, bytes and memory of every model in `MODELS`."""
    devices = ["1 device" if count == 1 else str(count) for count in counts]
    head = ["pair", "Pflop", "read", "per device", *devices]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for model in MODELS.values():
        predictions = [predict(model, rates, devices=count, posts=posts) for count in counts]
        first = predictions[0]
        cells = [
            model.name,
            f"{first.operations / 1e15:.2f}",
            f"{first.read / 2**30:.1f} GiB",
            f"{first.device / 2**30:.1f} GiB",
            *(_time(prediction.seconds) for prediction in predictions),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main() -> str:
    """Measures or reads, then predicts."""
    prepare_process()
    from svdjax.engine import cost

    if _RATES.value:
        path = pathlib.Path(_RATES.value)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            raw["eigen"] = {int(size): float(value) for size, value in raw["eigen"].items()}
            rates = cost.Rates(**raw)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"--rates={path}: expected JSON as this tool prints it: {error}"
            ) from error
    else:
        try:
            sizes = sorted({int(size) for size in _SIZES.value})
        except ValueError as error:
            raise InputError(f"--sizes={','.join(_SIZES.value)}: expected numbers") from error
        if not sizes or sizes[0] < 2:
            raise InputError(f"--sizes={','.join(_SIZES.value)}: expected numbers from 2 on")
        rates = cost.measure_rates(sizes, _PRODUCT.value)
    parts = [
        f"```json\n{json.dumps(asdict(rates))}\n```",
        table(rates, posts=_POSTS.value),
        cluster_table(rates, posts=_POSTS.value, file_system=_FILE_SYSTEM.value),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    cli.run(main)
