"""What config.json says of a quantised checkpoint, as far as its tensors do not tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from svdjax.checkpoint import small_json
from svdjax.checkpoint.formats import DTYPES
from svdjax.errors import InputError, printable

KEYS = ("quantization_config", "compression_config")
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_MOST = 1 << 24
_SHOWN = 100  # characters of a method's name


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of quantised matrices.

    Attributes:
        where: config.json, for messages.
        method: Name of the method; empty where none is declared.
        dtype: Dtype of the model, bf16 unless config.json says otherwise.
        blocks: Sizes (rows, columns) of blocks that share a scale.
        groups: Numbers of columns that share a scale.
        layout: Format of the codes: "gptq", "gptq_v2", "gemm", ...; empty where none is named.
    """

    where: str
    method: str = ""
    dtype: np.dtype = DTYPES["BF16"]
    blocks: tuple[tuple[int, int], ...] = ()
    groups: tuple[int, ...] = ()
    layout: str = ""


def declared_in(config: Mapping[str, Any]) -> Any:
    """What a config.json declares of its quantisation; None where it declares nothing."""
    inner = config.get("text_config")
    for fields in (config, inner if isinstance(inner, Mapping) else {}):
        for key in KEYS:
            if fields.get(key):
                return fields[key]
    return None


def method_of(declared: Any) -> str:
    """Name of a declared method and of its format, for messages; empty where it has none."""
    fields = declared if isinstance(declared, Mapping) else {"quant_method": declared}
    names = (fields.get("quant_method"), fields.get("format"), fields.get("quant_algo"))
    return printable(", ".join(name for name in names if isinstance(name, str)), _SHOWN)


def read_settings(config: Mapping[str, Any], where: str) -> Settings:
    """Settings that a config.json declares.

    Args:
        config: Its content.
        where: Its path, for messages.

    Raises:
        InputError: A value is none that makes sense.
    """
    declared = declared_in(config)
    what = f"{where}: quantization_config"
    if declared is not None and not isinstance(declared, Mapping):
        raise InputError(f"{what}: expected an object, found {small_json.shown(declared)}")
    named = config.get("dtype") or config.get("torch_dtype")
    code = _DTYPES.get(named.removeprefix("torch."), "BF16") if isinstance(named, str) else "BF16"
    settings = Settings(where, dtype=DTYPES[code])
    if declared is None:
        return settings
    layouts = [declared.get(key) for key in ("checkpoint_format", "version")]
    return dataclasses.replace(
        settings,
        method=method_of(declared),
        blocks=tuple(_blocks(declared, what)),
        groups=tuple(_groups(declared, what)),
        layout=next((text.lower() for text in layouts if isinstance(text, str)), ""),
    )


def _weights(declared: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Settings themselves, and those that compressed-tensors keeps for groups of modules."""
    yield declared
    groups = declared.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping):
            yield group["weights"]


def _blocks(declared: Mapping[str, Any], what: str) -> Iterator[tuple[int, int]]:
    for fields in _weights(declared):
        for key in ("weight_block_size", "block_structure"):
            size = fields.get(key)
            if size is None:
                continue
            if not isinstance(size, list) or len(size) != 2:
                shown = small_json.shown(size)
                raise InputError(f"{what}: {key}: expected two whole numbers, found {shown}")
            rows, columns = (small_json.whole(n, f"{what}: {key}", 1, _MOST) for n in size)
            yield rows, columns


def _groups(declared: Mapping[str, Any], what: str) -> Iterator[int]:
    for fields in _weights(declared):
        size = fields.get("group_size", fields.get("q_group_size"))
        if size is not None:
            yield small_json.whole(size, f"{what}: group_size", -1, _MOST)
