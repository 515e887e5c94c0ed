"""Two checkpoints brought to the same names: another prefix, fused against split, other layers."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator, Mapping

from svdjax.checkpoint.canonical import DECODER, text_config
from svdjax.checkpoint.depth import match_layers
from svdjax.checkpoint.projection import Place, places
from svdjax.checkpoint.reader import Checkpoint, Part
from svdjax.checkpoint.view import PairView

_FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
_MOST_PARTS = 32  # of a name that are looked at


def same_names(base: Checkpoint, post: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Views of both in which a matrix of both has one name, where ends of names tell which.

    Names of base become those of post, and of a fused projection whose parts the other side has
    these parts are taken. Notes of the views say so.
    """
    base = _renamed(base, post)
    return _split_like(base, post), _split_like(post, base)


def _renamed(base: Checkpoint, post: Checkpoint) -> Checkpoint:
    """Base, the names that only it has being those of post with the longest common ends.

    Templates are compared rather than names: one change goes for all layers.
    """
    where = places({*base.names, *post.names})
    shapes = [_shapes_by_template(side, where) for side in (base, post)]
    own, free = (one.keys() - other.keys() for one, other in (shapes, shapes[::-1]))
    matches = _match_ends(own, free, *shapes)
    templates: dict[str, list[str]] = {}
    for name in base.names:
        if where[name].template in matches:
            templates.setdefault(where[name].template, []).append(name)
    changes: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for template, names in templates.items():
        other = matches[template]
        end = len(_common_end(template, other))
        changes.setdefault((template[:-end], other[:-end]), []).extend(
            (name, _filled(other, where[name])) for name in names
        )
    parts: dict[str, Part] = {}
    notes: list[str] = []
    for moved in changes.values():
        # A single pair that ends alike may be chance.
        if len(moved) > 1:
            parts |= {new: Part(old) for old, new in moved}
            old, new = min(moved)
            notes.append(
                f"{len(moved)} tensors of {base.path} are compared under the names of {post.path} "
                f"that end as theirs do: {old} as {new}"
            )
    return PairView(base, parts, notes) if parts else base


def _shapes_by_template(
    checkpoint: Checkpoint, where: Mapping[str, Place]
) -> dict[str, tuple[int, ...]]:
    """Shape of one tensor of each template."""
    first: dict[str, str] = {}
    for name in checkpoint.names:
        first.setdefault(where[name].template, name)
    return {template: checkpoint.spec(name).shape for template, name in first.items()}


def _match_ends(
    own: Collection[str],
    free: Collection[str],
    shapes: Mapping[str, tuple[int, ...]],
    others: Mapping[str, tuple[int, ...]],
) -> dict[str, str]:
    """For templates of base the one of post with the longest common end, if no other has it too."""
    by_end: dict[str, list[str]] = {}
    for template in free:
        for end in _ends(template):
            by_end.setdefault(end, []).append(template)
    matches: dict[str, str] = {}
    for template in own:
        for end in _ends(template):
            alike = [
                other
                for other in by_end.get(end, ())
                if others[other] == shapes[template] and other.count("*") == template.count("*")
            ]
            if len(alike) == 1:
                matches[template] = alike[0]
            if alike:
                break
    counts = collections.Counter(matches.values())
    return {template: other for template, other in matches.items() if counts[other] == 1}


def _ends(template: str) -> Iterator[str]:
    """Ends of a template at its dots, the longest first; two parts at least."""
    parts = template.rsplit(".", _MOST_PARTS)
    for start in range(len(parts) - 1):
        yield ".".join(parts[start:])


def _common_end(template: str, other: str) -> str:
    return next(end for end in _ends(template) if f".{other}".endswith(f".{end}"))


def _filled(template: str, place: Place) -> str:
    """Name of a template's tensor, with the layer and the expert of a place."""
    for number in (place.layer, place.expert):
        if number is not None:
            template = template.replace("*", str(number), 1)
    return template


def _split_like(checkpoint: Checkpoint, other: Checkpoint) -> Checkpoint:
    """A checkpoint whose fused projections are cut into the parts that the other one has."""
    parts: dict[str, Part] = {}
    for name in checkpoint.names:
        stem, _, rest = name.removeprefix(DECODER).partition(".")
        role = rest.removesuffix(".weight")
        if not name.startswith(DECODER) or role not in _FUSED or name in other:
            continue
        names = [f"{DECODER}{stem}.{part}.weight" for part in _FUSED[role]]
        if not all(part in other for part in names):
            continue
        shapes = [other.spec(part).shape for part in names]
        shape = checkpoint.spec(name).shape
        if any(len(each) != 2 or each[1:] != shape[1:] for each in shapes):
            continue
        if sum(each[0] for each in shapes) != shape[0]:
            continue
        start = 0
        for part, (rows, _) in zip(names, shapes):
            parts[part] = Part(name, span=(start, start + rows, 1))
            start += rows
    if not parts:
        return checkpoint
    fused = sorted({part.tensor for part in parts.values()})
    note = f"{len(fused)} fused matrices of {checkpoint.path}, such as {fused[0]}, are compared "
    return PairView(checkpoint, parts, [f"{note}part by part, as {other.path} has them"])


def same_layers(
    base: Checkpoint, post: Checkpoint
) -> tuple[Checkpoint, dict[int, int], dict[str, str]]:
    """Base with the layers of post, where their numbers differ.

    Returns:
        A view of base that has the layer which matches each layer of post under that one's number;
        layer of base by layer of post, empty where the numbers agree; tensors in layers that are
        matched with none, with the reason.
    """
    where = places({*base.names, *post.names})
    stack = _stack(base, post, where)
    layers = tuple(_layers(side, where, stack) for side in (base, post)) if stack else ([], [])
    stated = [text_config(side).get("num_hidden_layers") for side in (base, post)]
    # Beyond the stated layers lie others, such as those that predict further tokens.
    if layers[0] == layers[1] or not all(layers) or stated[0] == stated[1] is not None:
        return base, {}, {}
    matched = match_layers(base, post, (layers[0], layers[1]), where, stack)
    if not matched:
        return base, {}, {}
    targets: dict[int, list[int]] = {}
    for number, source in matched.items():
        targets.setdefault(source, []).append(number)
    parts: dict[str, Part] = {}
    dropped: dict[str, str] = {}
    for name in base.names:
        place = where[name]
        if place.layer is None or not place.template.startswith(stack):
            continue
        for number in targets.get(place.layer, ()):
            renamed = f"{stack[:-2]}{number}{name[len(stack) - 2 + len(str(place.layer)) :]}"
            parts[renamed] = Part(name)
        if place.layer not in targets:
            dropped[name] = f"layer {place.layer} of base is matched with no layer of post"
    apart = {
        name: f"layer {where[name].layer} of post is like no layer of base"
        for name in post.names
        if where[name].template.startswith(stack) and where[name].layer not in matched
    }
    told = ", ".join(f"{number} with {source}" for number, source in sorted(matched.items())[:100])
    note = (
        f"layers are matched by their values, as base has {len(layers[0])} and post has "
        f"{len(layers[1])} (layer of post with layer of base): {told}"
    )
    view = PairView(base, parts, [note + ", ..." * (len(matched) > 100)], dropped)
    return view, matched, apart | {f"base: {name}": why for name, why in dropped.items()}


def _stack(base: Checkpoint, post: Checkpoint, where: Mapping[str, Place]) -> str:
    """Beginning of the templates of the layers, to the number: the decoder's, or the largest."""
    counts: collections.Counter[str] = collections.Counter()
    for checkpoint in (base, post):
        for name in checkpoint.names:
            template = where[name].template
            if where[name].layer is not None:
                counts[template[: template.index("*.") + 2]] += 1
    if counts[f"{DECODER}*."]:
        return f"{DECODER}*."
    return max(counts, key=lambda stack: counts[stack], default="")


def _layers(checkpoint: Checkpoint, where: Mapping[str, Place], stack: str) -> list[int]:
    """Numbers of the layers of a stack, ascending."""
    return sorted(
        {
            layer
            for name in checkpoint.names
            if (layer := where[name].layer) is not None and where[name].template.startswith(stack)
        }
    )
