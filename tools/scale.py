"""Predicts seconds, operations, bytes and memory of large pairs from this machine's rates.

    python tools/scale.py                        measure this machine, print its rates and the table
    python tools/scale.py --rates=FILE           the table of rates that were measured elsewhere
    python tools/scale.py --posts=3              of a base with three posts

Measures a float64 product and symmetric eigenproblems on all devices at once (less than a minute),
and prints Markdown: the rates as JSON, which --rates takes again, and for 1.5B, 7B, 14B and 70B
pairs on 1 to 8 such devices what `python -m svdjax.sweep` with --config.measure=vectors would take,
compiling aside. How the prediction is made, and how far it was off: docs/scale.md.
"""

from __future__ import annotations

import json
import pathlib
from dataclasses import asdict

from absl import flags

from svdjax import cli
from svdjax.engine.process import prepare_process
from svdjax.errors import InputError

_RATES = flags.DEFINE_string("rates", None, "JSON of rates instead of measuring this machine's.")
_POSTS = flags.DEFINE_integer("posts", 1, "Post models of the one base.", 1)
_SIZES = flags.DEFINE_list(
    "sizes", ["256", "512", "1024", "2048"], "Sizes of the eigenproblems that are measured."
)
_PRODUCT = flags.DEFINE_integer("product", 2048, "Size of the product that is measured.", 64)


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
    return "\n".join(
        ["```json", json.dumps(asdict(rates)), "```", "", cost.table(rates, posts=_POSTS.value)]
    )


if __name__ == "__main__":
    cli.run(main)
