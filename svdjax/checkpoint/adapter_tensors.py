"""Tensors of an adapter by what they are to a module, from their names as PEFT writes them.

``save_pretrained`` leaves the adapter's own name out of them (``lora_A.weight``), a state dict that
a training framework saves has it (``lora_A.default.weight``), and wrappers of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.matching import Fault
from svdjax.checkpoint.safetensors_file import TensorSpec

PREFIX = "base_model.model."
_WRAPPERS = re.compile(
    r"^(?:module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_OWN = r"(?:\.(?P<own>(?!weight$)[^.]+))?"
# By role, in the order in which they are tried; what begins with none is a tensor of the model.
_ROLES = {
    "a": re.compile(rf"(?P<module>.+)\.lora_A{_OWN}\.weight"),
    "b": re.compile(rf"(?P<module>.+)\.lora_B{_OWN}\.weight"),
    "embedding_a": re.compile(rf"(?P<module>.+)\.lora_embedding_A{_OWN}"),
    "embedding_b": re.compile(rf"(?P<module>.+)\.lora_embedding_B{_OWN}"),
    "magnitude": re.compile(rf"(?P<module>.+)\.lora_magnitude_vector{_OWN}(?:\.weight)?"),
    "tokens": re.compile(rf"(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta{_OWN}"),
    # Copies of what the base holds.
    "": re.compile(
        r"(?P<module>.+?)\.(?:original_module|token_adapter\.trainable_tokens_orig.*)\b.*"
    ),
}
_SAVED = re.compile(r"\.modules_to_save(?:\.default)?(?=\.)")
_BASE_LAYER = re.compile(r"(?:\.token_adapter)?\.base_layer(?=\.)")


@dataclass
class AdapterTensors:
    """Names of an adapter's tensors.

    Attributes:
        parts: By module, such as ``model.layers.0.self_attn.q_proj``, and role: "a", "b",
            "embedding_a", "embedding_b", "magnitude" or "tokens".
        whole: Tensors that take the place of the base's, by its names.
        saved: Those of `whole` that are copies of their own (modules_to_save), by their names.
        faults: Faults of names and dtypes.
    """

    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)


def adapter_tensors(specs: Mapping[str, TensorSpec]) -> AdapterTensors:
    """Tensors of an adapter's file by what their names say of them."""
    tensors, owns = AdapterTensors(), dict[str, str]()
    for name, spec in specs.items():
        plain = _WRAPPERS.sub("", name)
        if not plain.startswith(PREFIX):
            text = f"is not named {PREFIX}..., as PEFT names the tensors of an adapter"
            tensors.faults.append(Fault(name, f"tensor {{name}} {text}"))
            continue
        own, known = _place(tensors, plain.removeprefix(PREFIX), name)
        if known and spec.dtype not in FLOATS:
            text = f"tensor {{name}} is {spec.dtype}, expected bf16, f16 or f32"
            tensors.faults.append(Fault(name, text))
        if own:
            owns.setdefault(own, name)
    if len(owns) > 1:
        text = f"tensors of several adapters ({', '.join(sorted(owns))}), expected one"
        tensors.faults.append(Fault("", text))
    return tensors


def _place(tensors: AdapterTensors, plain: str, name: str) -> tuple[str, bool]:
    """Files a tensor; returns the adapter's own name in it, and whether its values count."""
    for role, pattern in _ROLES.items():
        if match := pattern.fullmatch(plain):
            own = match.groupdict().get("own") or ""
            if not role:
                return "", False
            parts = tensors.parts.setdefault(match["module"], {})
            if role in parts:
                tensors.faults.append(Fault(name, f"tensor {{name}} is there as {parts[role]} too"))
            parts[role] = name
            return own, True
    saved = _SAVED.search(plain) is not None
    target = _SAVED.sub("", _BASE_LAYER.sub("", plain))
    if target not in tensors.whole:
        tensors.whole[target] = name
    elif not saved and target in tensors.saved:
        # Of what is saved twice, PEFT reads the one without the wrapper's name.
        tensors.whole[target] = name
    elif not saved:
        text = f"tensor {{name}} is there as {tensors.whole[target]} too"
        tensors.faults.append(Fault(name, text))
    if saved:
        tensors.saved.add(target)
    return "", True
