"""Which tensors of a checkpoint make up one quantised matrix, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from svdjax.checkpoint import files
from svdjax.checkpoint.quantised.bitsandbytes import Bnb4Tensor, Bnb8Tensor
from svdjax.checkpoint.quantised.compressed import CompressedTensor
from svdjax.checkpoint.quantised.gptq import make_words
from svdjax.checkpoint.quantised.mxfp4 import Mxfp4Tensor
from svdjax.checkpoint.quantised.packed import PackedTensor, Parts
from svdjax.checkpoint.quantised.scaled import ScaledTensor
from svdjax.checkpoint.quantised.settings import Settings
from svdjax.errors import InputError

NAMES = "fp8, int8, MXFP4, GPTQ, AWQ, bitsandbytes or compressed-tensors"


class Layout(NamedTuple):
    """Names of the tensors that make up one matrix.

    Attributes:
        mark: Pattern of the tensor by which it is known; its first group is called X below.
        name: Name of the matrix, of X.
        parts: Names of the parts by role, of X and further groups of the mark.
        optional: Roles that may be missing.
        make: Makes the matrix of its parts.
    """

    mark: re.Pattern[str]
    name: str
    parts: Mapping[str, str]
    optional: Collection[str]
    make: Callable[[Parts, Settings], PackedTensor]


LAYOUTS = (
    Layout(
        re.compile(r"(.+)_scale_inv"),
        "{0}",
        {"codes": "{0}", "scale": "{0}_scale_inv"},
        (),
        ScaledTensor,
    ),
    Layout(
        re.compile(r"(.+)\.weight_packed"),
        "{0}.weight",
        {
            "codes": "{0}.weight_packed",
            "scale": "{0}.weight_scale",
            "shape": "{0}.weight_shape",
            "zero": "{0}.weight_zero_point",
            "groups": "{0}.weight_g_idx",
        },
        ("zero", "groups"),
        CompressedTensor,
    ),
    Layout(
        re.compile(r"(.+(?:\.weight|_proj))_scale"),
        "{0}",
        {"codes": "{0}", "scale": "{0}_scale", "zero": "{0}_zero_point"},
        ("zero",),
        ScaledTensor,
    ),
    Layout(
        re.compile(r"(.+)_blocks"),
        "{0}",
        {"blocks": "{0}_blocks", "scales": "{0}_scales"},
        (),
        Mxfp4Tensor,
    ),
    Layout(
        re.compile(r"(.+)\.qweight"),
        "{0}.weight",
        {
            "codes": "{0}.qweight",
            "zeros": "{0}.qzeros",
            "scales": "{0}.scales",
            "groups": "{0}.g_idx",
        },
        ("groups",),
        make_words,
    ),
    Layout(
        re.compile(r"(.+)\.quant_state\.bitsandbytes__(nf4|fp4)"),
        "{0}",
        {
            "codes": "{0}",
            "state": "{0}.quant_state.bitsandbytes__{1}",
            "map": "{0}.quant_map",
            "absmax": "{0}.absmax",
            "nested_absmax": "{0}.nested_absmax",
            "nested_map": "{0}.nested_quant_map",
        },
        ("nested_absmax", "nested_map"),
        Bnb4Tensor,
    ),
    Layout(
        re.compile(r"(.+)\.SCB"),
        "{0}.weight",
        {"codes": "{0}.weight", "absmax": "{0}.SCB", "layout": "{0}.weight_format"},
        ("layout",),
        Bnb8Tensor,
    ),
)
_ENDINGS = (
    *("_scale_inv", "_scale", ".weight_packed", "_blocks", ".qweight", ".SCB"),
    *(".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"),
)
# Of activations and the cache of keys and values: no weight depends on them.
_ASIDE = re.compile(
    r"\.(input|output|activation|weight_activation|[qkv]|kv|prob_output|k_proj\.k|v_proj\.v)"
    r"_(scale|zero_point|global_scale|amax)(_inv)?$"
)
# What only quantised checkpoints have, in these formats and in others (AQLM, HQQ, EETQ, EXL2, ...).
_MARKS = re.compile(
    r"(\.(qweight|qzeros|scales|g_idx|absmax|nested_absmax|quant_map|nested_quant_map|SCB|"
    r"weight_format|weight_packed|weight_shape|weight_zero_point|weight_scales?|weight_scale_2|"
    r"weight_global_scale|W_q|codes|codebooks|q_weight|q_scale|q_perm|dense_weight|trellis|"
    r"quant_state\.[\w.]+)|_scale_inv|_blocks|_scales)$"
)


class Match(NamedTuple):
    """Tensors of a checkpoint as quantised matrices.

    Attributes:
        packed: Layout and names of the parts of each matrix, by its name.
        aside: Names of tensors that no weight depends on.
    """

    packed: dict[str, tuple[Layout, dict[str, str]]]
    aside: tuple[str, ...]


def match_names(names: Collection[str], where: str, method: str = "") -> Match:
    """Quantised matrices among tensors.

    Args:
        names: Names of all tensors.
        where: File that lists them, for messages.
        method: Method that config.json names, for messages.

    Raises:
        InputError: A part is missing, belongs to two matrices, or is of a format that is not read.
    """
    present = set(names)
    packed: dict[str, tuple[Layout, dict[str, str]]] = {}
    owner: dict[str, str] = {}
    faults: list[str] = []
    for name in sorted(name for name in present if name.endswith(_ENDINGS)):
        for layout in LAYOUTS:
            mark = layout.mark.fullmatch(name)
            if mark is None:
                continue
            parts = {role: text.format(*mark.groups()) for role, text in layout.parts.items()}
            if name in owner or _ASIDE.search(name):
                break
            target = layout.name.format(*mark.groups())
            missing = [
                part
                for role, part in parts.items()
                if part not in present and role not in layout.optional
            ]
            parts = {role: part for role, part in parts.items() if part in present}
            twice = [part for part in (target, *parts.values()) if part in owner]
            if missing:
                faults.append(f"tensor {name} has no {missing[0]} beside it")
            elif twice:
                faults.append(f"tensor {twice[0]} belongs to {owner[twice[0]]} and to {target}")
            elif target in present and target not in parts.values():
                faults.append(f"tensor {target} is there, and {name} beside it")
            else:
                packed[target] = layout, parts
                owner |= dict.fromkeys((target, *parts.values()), target)
            break
    rest = sorted(present - owner.keys() - packed.keys())
    aside = tuple(name for name in rest if _ASIDE.search(name))
    marks = [name for name in rest if _MARKS.search(name) and not _ASIDE.search(name)]
    if marks and not faults:
        faults.append(
            f"tensors such as {marks[0]} ({len(marks)} of them) belong to a quantised checkpoint "
            f"of a format that is not read"
        )
    if faults:
        raise InputError(
            f"{where}: quantised{method and f' ({method})'}: {files.listed(faults, 3)}; expected "
            f"{NAMES} weights with all that belongs to them, or the bf16 checkpoint that this one "
            "was made from"
        )
    return Match(packed, aside)
