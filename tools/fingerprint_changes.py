"""The fingerprint table's second part: merges, copies, other depths and orders, noise, pruning.

Every row is a pair with what is known of it; the suspect as it is and fully disguised. Lines of
three checkpoints ask which one lies between the others, and which reference is nearest.

Axes: `L` layers, `I` in, `O` out. Trees are those of `svdjax.checkpoint.load_params`, leaves
float32; everything random is seeded.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from disguises import disguise

from svdjax.checkpoint import load_params, model_config, open_checkpoint, save_checkpoint
from svdjax.engine.progress import note
from svdjax.fingerprint.findings import named
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.run import fingerprint

Tree = dict[str, Any]
ENDS = ("embed_tokens", "lm_head")


def merge(trees: Sequence[Any], shares: Sequence[float]) -> Any:
    """The weighted sum of several models, leaf by leaf."""
    if isinstance(trees[0], Mapping):
        return {name: merge([tree[name] for tree in trees], shares) for name in trees[0]}
    return sum(share * tree for share, tree in zip(shares, trees))


def with_layers(tree: Tree, order: Sequence[int]) -> Tree:
    """Layers in another order, left out or repeated."""

    def taken(branch: Any) -> Any:
        if isinstance(branch, Mapping):
            return {name: taken(leaf) for name, leaf in branch.items()}
        return branch[list(order)]

    return {**tree, "layers": taken(tree["layers"])}


def with_copies(
    tree: Tree,
    source: Tree,
    *,
    layers: Mapping[int, int] | None = None,
    modules: Sequence[str] = ("self_attn", "mlp"),
    ends: bool = False,
) -> Tree:
    """A model with parts of another one in the place of its own.

    Args:
        tree: The model.
        source: The other one.
        layers: Layer of the model -> layer of the source that goes there; None copies none.
        modules: Which modules of these layers, each with the norm before it.
        ends: Copy embeddings and head, and the norm before the head, too.
    """
    norms = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}
    names = {name for module in modules for name in (module, norms[module])}

    def placed(own: Any, other: Any) -> Any:
        if isinstance(own, Mapping):
            return {name: placed(own[name], other[name]) for name in own}
        copy = own.copy()
        for here, there in (layers or {}).items():
            copy[here] = other[there]
        return copy

    blocks = {
        name: placed(branch, source["layers"][name]) if name in names else branch
        for name, branch in tree["layers"].items()
    }
    copied = {name: source[name] for name in (*ENDS, "norm") if ends and name in source}
    return {**tree, "layers": blocks, **copied}


def on_matrices(tree: Tree, change: Callable[[np.ndarray], np.ndarray]) -> Tree:
    """A change of every linear layer's kernel [I, O]; embeddings, head, norms and biases stay."""

    def changed(branch: Any, name: str) -> Any:
        if isinstance(branch, Mapping):
            return {key: changed(leaf, key) for key, leaf in branch.items()}
        return np.stack([change(w) for w in branch]) if name == "kernel" else branch

    return {**tree, "layers": changed(tree["layers"], "")}


def noise(share: float, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Gaussian noise of `share` times the matrix's root mean square."""
    rng = np.random.default_rng(seed)

    def change(w: np.ndarray) -> np.ndarray:
        size = share * np.sqrt(np.mean(w**2))
        return w + (size * rng.standard_normal(w.shape)).astype(w.dtype)

    return change


def int4(w: np.ndarray, group: int = 16) -> np.ndarray:
    """Rounded to 16 levels between the extremes of each group of inputs, for each output."""
    inputs, outputs = w.shape
    groups = w.reshape(-1, group, outputs)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    step = np.maximum((high - low) / 15, 1e-12)
    return (np.round((groups - low) / step) * step + low).reshape(inputs, outputs)


def pruned(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """The smallest weights of each matrix set to zero, `share` of them."""

    def change(w: np.ndarray) -> np.ndarray:
        return np.where(np.abs(w) < np.quantile(np.abs(w), share), 0, w).astype(w.dtype)

    return change


def low_rank(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """The nearest matrix of rank `share` times min(I, O)."""

    def change(w: np.ndarray) -> np.ndarray:
        u, s, vt = np.linalg.svd(w.astype(np.float64), full_matrices=False)
        rank = max(1, int(share * len(s)))
        return ((u[:, :rank] * s[:rank]) @ vt[:rank]).astype(w.dtype)

    return change


def changed_models(trees: Mapping[str, Tree]) -> dict[str, Tree]:
    """Suspects made from base, base_prime, instruct, reasoning and twin_long, by name."""
    base, prime, instruct, reasoning = (
        trees[name] for name in ("base", "base_prime", "instruct", "reasoning")
    )
    made = {
        "instruct 50 + reasoning 50": merge([instruct, reasoning], [0.5, 0.5]),
        "instruct 20 + reasoning 80": merge([instruct, reasoning], [0.2, 0.8]),
        "base, instruct, reasoning 33": merge([base, instruct, reasoning], [1 / 3] * 3),
        "base 50 + base_prime 50": merge([base, prime], [0.5, 0.5]),
        "base 80 + base_prime 20": merge([base, prime], [0.8, 0.2]),
        "base 20 + base_prime 80": merge([base, prime], [0.2, 0.8]),
        "base, base_prime, twin_long 33": merge([base, prime, trees["twin_long"]], [1 / 3] * 3),
        "deeper (0 1 2 3 1 2 3 4)": with_layers(instruct, [0, 1, 2, 3, 1, 2, 3, 4]),
        "shallower (0 1 3 4)": with_layers(instruct, [0, 1, 3, 4]),
        "layers 1 and 3 swapped": with_layers(instruct, [0, 3, 2, 1, 4]),
        "layers reordered (3 0 4 2 1)": with_layers(instruct, [3, 0, 4, 2, 1]),
        "int4, groups of 16": on_matrices(instruct, int4),
        "1 layer of base in base_prime": with_copies(prime, base, layers={2: 2}),
        "1 layer of base elsewhere in base_prime": with_copies(prime, base, layers={4: 1}),
        "attention of base in base_prime": with_copies(
            prime, base, layers={n: n for n in range(5)}, modules=("self_attn",)
        ),
        "embeddings of base in base_prime": with_copies(prime, base, ends=True),
        "3 layers of base_prime in instruct": with_copies(
            instruct, prime, layers={n: n for n in (0, 2, 4)}
        ),
    }
    for share in (0.3, 0.5, 1.0, 2.0):
        made[f"noise {100 * share:.0f} %"] = on_matrices(instruct, noise(share, seed=1))
    for share in (0.5, 0.8):
        made[f"pruned {100 * share:.0f} %"] = on_matrices(instruct, pruned(share))
    for share in (0.5, 0.25):
        made[f"rank {100 * share:.0f} %"] = on_matrices(instruct, low_rank(share))
    return made


ROWS: tuple[tuple[str, str, str], ...] = (
    *(("related", "base", name) for name in ("instruct", "reasoning")),
    ("related", "instruct", "reasoning"),
    *(("related", "twin", name) for name in ("twin_answers", "twin_answers_prime")),
    ("related", "twin_answers", "twin_answers_prime"),
    *(("related", "twin_long", name) for name in ("twin_long_answers", "twin_long_hard")),
    ("related", "twin_long_answers", "twin_long_hard"),
    *(("initial weights", "twin", name) for name in ("twin_prime", "twin_order", "twin_long")),
    ("initial weights", "twin_answers", "twin_prime_answers"),
    ("initial weights", "twin_long", "twin_long_prime"),
    ("initial weights", "twin_long_answers", "twin_long_prime_answers"),
    ("unrelated", "base", "base_prime"),
    ("unrelated", "base", "twin_long"),
    ("unrelated", "base", "student"),
    *(("related", name, "instruct 50 + reasoning 50") for name in ("base", "instruct")),
    *(
        ("related", name, "instruct 20 + reasoning 80")
        for name in ("base", "instruct", "reasoning")
    ),
    ("related", "base", "base, instruct, reasoning 33"),
    *(("related", name, "base 50 + base_prime 50") for name in ("base", "base_prime")),
    *(("related", name, "base 80 + base_prime 20") for name in ("base", "base_prime")),
    *(
        ("related", name, "base, base_prime, twin_long 33")
        for name in ("base", "base_prime", "twin_long")
    ),
    ("related", "base", "deeper (0 1 2 3 1 2 3 4)"),
    ("related", "base", "shallower (0 1 3 4)"),
    ("related", "base", "layers 1 and 3 swapped"),
    ("related", "base", "layers reordered (3 0 4 2 1)"),
    *(("related", "base", f"noise {share} %") for share in (30, 50, 100, 200)),
    ("related", "base", "int4, groups of 16"),
    *(("related", "base", f"pruned {share} %") for share in (50, 80)),
    *(("related", "base", f"rank {share} %") for share in (50, 25)),
    ("partly related", "base", "1 layer of base in base_prime"),
    ("partly related", "base", "1 layer of base elsewhere in base_prime"),
    ("partly related", "base", "attention of base in base_prime"),
    ("partly related", "base", "embeddings of base in base_prime"),
    ("partly related", "base", "3 layers of base_prime in instruct"),
)
"""What is known of a pair, reference, suspect. "initial weights": trained apart from the same."""

LINES: tuple[tuple[str, str, str, str], ...] = (
    ("ancestor", "base", "instruct", "reasoning"),
    ("reference", "instruct", "base", "reasoning"),
    ("suspect", "instruct", "reasoning", "base"),
    ("ancestor", "stories260k", "stories_world", "stories_prime"),
    ("ancestor", "twin_long", "twin_long_answers", "twin_long_hard"),
    ("reference", "twin", "twin_answers", "twin_answers_prime"),
    ("ancestor", "twin_answers", "twin", "twin_answers_prime"),
    ("suspect", "twin", "twin_answers_prime", "twin_answers"),
    ("ancestor", "qwen_a", "qwen_a_answers", "qwen_a_prime"),
    ("reference", "base", "instruct", "noise 30 %"),
    ("none", "twin", "twin_prime", "twin_order"),
)
"""Which of three lies between the others; then ancestor, reference and suspect."""


def names() -> set[str]:
    """The models that rows and lines name, and those that changed ones are made from."""
    return {*_SOURCES, *(name for row in (*ROWS, *LINES) for name in row[1:])}


_SOURCES = ("base", "base_prime", "instruct", "reasoning", "twin_long")


def measure(models: dict[str, pathlib.Path], scratch: pathlib.Path) -> dict[str, Any]:
    """Fingerprints of all rows and lines; rows whose models are not there are left out.

    Args:
        models: Checkpoints by name; the changed ones are added.
        scratch: Folder for the changed and the disguised checkpoints.
    """
    trees, raw = {}, {}
    for name in _SOURCES:
        with open_checkpoint(models[name]) as checkpoint:
            trees[name] = load_params(checkpoint, model_config(checkpoint.path))
            raw[name] = checkpoint.config
    for number, (name, tree) in enumerate(changed_models(trees).items()):
        depth = len(tree["layers"]["input_layernorm"]["scale"])
        config = raw["instruct"] | {"num_hidden_layers": depth}
        models[name] = save_checkpoint(
            scratch / f"changed-{number}", tree, config, dtype="float32", copy_from=models["base"]
        )
    rows = []
    for truth, reference, suspect in ROWS:
        hidden = scratch / f"hidden-{models[suspect].name}"
        if not hidden.exists():
            _disguised(models[suspect], hidden)
        for disguised, path in ((False, models[suspect]), (True, hidden)):
            row = _row(truth, reference, suspect, models[reference], path, disguised)
            note(f"{reference} | {suspect} | {disguised}: {row['verdict']} {row['distance']:.4f}")
            rows.append(row)
    lines = []
    for truth, *names in LINES:
        if set(names) <= models.keys():
            lines.append(_line(truth, names, [models[name] for name in names]))
            note(f"{', '.join(names)}: {lines[-1]['between']}, known: {truth}")
    return {"rows": rows, "lines": lines}


def _disguised(source: pathlib.Path, target: pathlib.Path) -> None:
    with open_checkpoint(source) as checkpoint:
        config = model_config(checkpoint.path)
        tree, changed = disguise(load_params(checkpoint, config), config, ("all",), seed=7)
        raw = {**checkpoint.config, "tie_word_embeddings": changed.tie_word_embeddings}
        save_checkpoint(target, tree, raw, dtype="float32", copy_from=checkpoint.path)


def _row(
    truth: str,
    reference: str,
    suspect: str,
    source: pathlib.Path,
    path: pathlib.Path,
    disguised: bool,
) -> dict[str, Any]:
    with contextlib.redirect_stderr(io.StringIO()):
        result = fingerprint(FingerprintJob(str(source), str(path), "unused.json"))
    short = ("verdict", "distance", "log10_p_value", "z", "shared_training", "seconds")
    return {
        "truth": truth,
        "reference": reference,
        "suspect": suspect,
        "disguised": disguised,
        **{name: result[name] for name in short},
        "residual": result["alignment"]["residual"],
        "layers": result["alignment"]["layers"],
        "related_parts": [part["part"] for part in result["related_parts"]],
        "related_words": named(result["related_parts"]),
        "unrelated_parts": [p["part"] for p in result["parts"] if p["verdict"] == "unrelated"],
        "nearest_part": min(part["distance"] for part in result["parts"]),
        "parts": len(result["parts"]),
    }


def _line(truth: str, names: Sequence[str], paths: Sequence[pathlib.Path]) -> dict[str, Any]:
    ancestor, reference, suspect = (str(path) for path in paths)
    with contextlib.redirect_stderr(io.StringIO()):
        result = fingerprint(FingerprintJob(reference, suspect, "unused.json", ancestor=ancestor))
    sources = {ancestor: names[0], reference: names[1]}
    return {
        "truth": truth,
        "ancestor": names[0],
        "reference": names[1],
        "suspect": names[2],
        **{name: result["ancestor"][name] for name in ("between", "why", "distances", "detours")},
        "nearest": result["nearest"]
        | {name: sources.get(result["nearest"][name]) for name in ("reference", "next")},
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Rows and lines as two tables."""
    lines = [
        "| reference | suspect | known | distance | disguised | verdict | disguised "
        "| leading | shared |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = result["rows"]
    for plain, hidden in zip(rows[::2], rows[1::2]):
        verdicts = [
            row["verdict"] + (f": {row['related_words']}" if row["verdict"][0] == "p" else "")
            for row in (plain, hidden)
        ]
        leading = plain["shared_training"]["leading"]
        lines.append(
            f"| {plain['reference']} | {plain['suspect']} | {plain['truth']} "
            f"| {plain['distance']:.4f} | {hidden['distance']:.4f} | {verdicts[0]} "
            f"| {'same' if verdicts[0] == verdicts[1] else verdicts[1]} "
            f"| {'–' if np.isnan(leading) else f'{leading:.2f}'} "
            f"| {plain['shared_training']['kind'] or '–'} |"
        )
    lines += [
        "",
        "| ancestor | reference | suspect | known | said | detours: ancestor, reference, suspect "
        "| nearest to the suspect |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in result["lines"]:
        detours = ", ".join(
            f"{line['detours'][name]:.4f}" for name in ("ancestor", "reference", "suspect")
        )
        nearest = line["nearest"]
        lines.append(
            f"| {line['ancestor']} | {line['reference']} | {line['suspect']} | {line['truth']} "
            f"| {line['between'] or line['why']} | {detours} "
            f"| {nearest['reference'] or nearest['why']} ({nearest['ratio']:.2f}) |"
        )
    return "\n".join(lines)
