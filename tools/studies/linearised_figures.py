"""Figures of the study `linearised`, from its kept pieces: intervals, comparisons, the plot."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from svdjax.probe.linearised import ALL, MODULES, OTHER
from tools.studies import drawing
from tools.studies.statistics import CONFIDENCE, interval

_DRAWS = 2000


def figures(settings: Any, pieces: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """All figures: shipped models by bootstrap over the texts, trainings by seed.

    Args:
        settings: `tools.studies.linearised.Settings`.
        pieces: What `tools.studies.linearised.measure_piece` gave, by name.
    """
    last = max(settings.kept)
    shipped = {
        name: {
            "texts": len(piece["tokens"]),
            "tokens": int(sum(piece["tokens"])),
            "size": piece["size"],
            "between": _quantiles(between_modules(piece), between_modules(piece, _drawn(piece))),
            **_arm([piece], [bootstrapped(piece, index) for index in _indices(piece)]),
            "controls": _controls(settings, pieces, name, 0, [piece] * len(settings.seeds)),
        }
        for name in settings.shipped
        for piece in [pieces[f"{name}-0-change-0"]]
    }
    trained = {}
    for step in settings.kept:
        seeds = [pieces[f"trained-{step}-change-{seed}"] for seed in settings.seeds]
        trained[str(step)] = {"size": _interval([each["size"] for each in seeds]), **_seeds(seeds)}
        if step != last:
            del trained[str(step)]["parts"]
    own = [pieces[f"trained-{last}-change-{seed}"] for seed in settings.seeds]
    return _rounded(
        {
            "shipped": shipped,
            "trained": trained,
            "last": str(last),
            "fall": _fall(settings, pieces),
            "between": _interval([between_modules(piece) for piece in own]),
            "controls": _controls(settings, pieces, "trained", last, own),
        }
    )


def metrics(piece: Mapping[str, Any], index: int, drawn: np.ndarray | None = None) -> Any:
    """Metrics of a point, over all texts, or over each row of drawn texts [draws, texts]."""
    if drawn is None:
        drawn = np.arange(len(piece["tokens"]))[None]

    def total(values: Sequence[float]) -> np.ndarray:
        return np.asarray(values, float)[drawn].sum(axis=1)

    sums = {name: total(values[index]) for name, values in piece["sums"].items()}
    tokens, continued = total(piece["tokens"]), total(piece["continued"])
    change, linear, error = sums["change"], sums["linear"], sums["error"]
    found = {
        "change": np.sqrt(change / tokens),
        "share": 1 - error / change,
        "cosine": (change + linear - error) / (2 * np.sqrt(change * linear)),
        "kl_share": 1 - sums["kl_linearised"] / sums["kl_base"],
        **{name: sums[name] / tokens for name in ("kl_base", "kl_linearised")},
        **{name: sums[name] / tokens for name in ("agree_base", "agree_linearised")},
        **{
            name: sums[name] / continued
            for name in ("right_base", "right_linearised", "right_post")
        },
    }
    found["best"] = found["cosine"] ** 2
    return found if len(drawn) > 1 else {name: float(values[0]) for name, values in found.items()}


def bootstrapped(piece: Mapping[str, Any], index: int) -> dict[str, dict[str, Any]]:
    """Metrics of a point with percentile intervals over drawn texts; ratios of sums throughout."""
    means, draws = metrics(piece, index), metrics(piece, index, _drawn(piece))
    return {name: _quantiles(mean, draws[name]) for name, mean in means.items()}


def _drawn(piece: Mapping[str, Any]) -> np.ndarray:
    """Texts that are drawn with replacement, [draws, texts]."""
    texts = len(piece["tokens"])
    return np.random.default_rng(0).integers(0, texts, (_DRAWS, texts))


def _quantiles(mean: float, draws: np.ndarray) -> dict[str, Any]:
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return dict(zip(("mean", "low", "high"), [mean, *np.quantile(draws, tails).tolist()]))


def between_modules(piece: Mapping[str, Any], drawn: np.ndarray | None = None) -> Any:
    """A lower bound of what modules do to one another, over the change of the logits.

    What of the whole is not first order is at most as large as what of the modules by themselves
    is not, and their effects on one another, together (root mean squares over the positions):
    `(|error of the whole| - sum of |error of a module|) / |change of the whole|`. Below 0 it says
    nothing.
    """
    if drawn is None:
        drawn = np.arange(len(piece["tokens"]))[None]
    points = list(zip(piece["parts"], piece["scales"]))

    def root(name: str, part: str) -> np.ndarray:
        values = np.asarray(piece["sums"][name][points.index((part, 1.0))], float)
        return np.sqrt(values[drawn].sum(axis=1))

    alone = sum(root("error", part) for part in (*MODULES, OTHER))
    found = (root("error", ALL) - alone) / root("change", ALL)
    return found if len(drawn) > 1 else float(found[0])


def at_change(piece: Mapping[str, Any], change: float, name: str = "share") -> float | None:
    """A metric where the logits change so much, between the steps along a direction."""
    steps = sorted(
        (found["change"], found[name])
        for index, part in enumerate(piece["parts"])
        if part == ALL
        for found in [metrics(piece, index)]
    )
    sizes, values = (np.array(column) for column in zip(*steps))
    if not sizes[0] <= change <= sizes[-1]:
        return None
    return float(np.interp(np.log(change), np.log(sizes), values))


def _indices(piece: Mapping[str, Any]) -> range:
    return range(len(piece["parts"]))


def _seeds(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An arm with intervals over the seeds."""
    points = []
    for index in _indices(pieces[0]):
        found = [metrics(piece, index) for piece in pieces]
        points.append({name: _interval([each[name] for each in found]) for name in found[0]})
    return _arm(pieces, points)


def _arm(pieces: Sequence[Mapping[str, Any]], points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of an arm: the whole of Δ, the steps along it, and its parts."""
    first = pieces[0]
    steps, parts, whole = [], {}, {}
    for part, scale, point in zip(first["parts"], first["scales"], points):
        if part != ALL:
            of_change = [piece["shares"][part] / piece["shares"][ALL] for piece in pieces]
            parts[part] = {"of_change": float(np.mean(of_change)), "share": point["share"]}
            continue
        if scale == 1.0:
            whole = dict(point)
        steps.append({"scale": scale, **{name: point[name] for name in ("change", "share")}})
    steps.sort(key=lambda step: step["scale"])
    return {"whole": whole, "steps": steps, **({"parts": parts} if parts else {})}


def _rounded(value: Any) -> Any:
    """Numbers with five significant digits, which the page does not exhaust."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _controls(
    settings: Any,
    pieces: Mapping[str, Any],
    model: str,
    step: int,
    own: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Controls of a model, and Δ less them where the logits change as much, seed by seed.

    That is where the whole of Δ and the first step along it longer than a fifth moves them, or
    the longest control, where that is less.
    """
    near = min(scale for scale in settings.scales if scale > 0.2)
    controls = {}
    for arm in ("noise", "shuffled"):
        arms = [pieces[f"{model}-{step}-{arm}-{seed}"] for seed in settings.seeds]
        compared = {
            name: _compared(arms, own, scale) for name, scale in (("near", near), ("whole", 1.0))
        }
        controls[arm] = {"steps": _seeds(arms)["steps"], **compared}
    return controls


def _compared(
    arms: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]], scale: float
) -> dict[str, Any]:
    """Shares of Δ and control where the logits change as much as by a step along Δ."""
    changes = []
    for control, mine in zip(arms, own):
        index = list(zip(mine["parts"], mine["scales"])).index((ALL, scale))
        changes.append(min(metrics(mine, index)["change"], _largest(control)))
    pairs = [
        (at_change(mine, change), at_change(control, change))
        for control, mine, change in zip(arms, own, changes)
    ]
    shares = [(a, b) for a, b in pairs if a is not None and b is not None]
    return {
        "change": _interval(changes),
        "own": _interval([a for a, _ in shares]),
        "control": _interval([b for _, b in shares]),
        "less": _interval([a - b for a, b in shares]),
    }


def _fall(settings: Any, pieces: Mapping[str, Any]) -> dict[str, float]:
    """By how much the share of the whole falls from the first kept step to the last, by seed."""
    shares = {}
    for step in (min(settings.kept), max(settings.kept)):
        seeds = [pieces[f"trained-{step}-change-{seed}"] for seed in settings.seeds]
        index = list(zip(seeds[0]["parts"], seeds[0]["scales"])).index((ALL, 1.0))
        shares[step] = [metrics(piece, index)["share"] for piece in seeds]
    first, last = shares.values()
    return _interval([a - b for a, b in zip(first, last)])


def _largest(piece: Mapping[str, Any]) -> float:
    return max(
        metrics(piece, index)["change"] for index, part in enumerate(piece["parts"]) if part == ALL
    )


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """An interval without the values, of which the page shows none."""
    found = interval(values)
    return {key: found[key] for key in ("mean", "low", "high")}


def draw(found: dict[str, Any], out: pathlib.Path) -> None:
    """The share explained by the change of the logits: Δ, and the controls."""
    names = list(found["shipped"])
    figure, axes = drawing.panels(len(names) + 1, width=2.5)
    for axis, name in zip(axes, [*names, "trained"]):
        if name == "trained":
            own, controls = found["trained"][found["last"]], found["controls"]
            title = f"instruct's recipe, {found['last']} steps"
        else:
            own, controls = found["shipped"][name], found["shipped"][name]["controls"]
            title = name
        for label, points in (
            ("Δ", own["steps"]),
            *((arm, control["steps"]) for arm, control in controls.items()),
        ):
            drawing.draw_line(
                axis,
                [point["change"]["mean"] for point in points],
                [point["share"] for point in points],
                label,
            )
        axis.set_title(title, fontsize=9)
        axis.set_xscale("log")
        axis.set_xlim(6, 300)
        axis.set_xticks([10, 30, 100], ["10", "30", "100"])
        axis.set_xticks([], minor=True)
        axis.set_ylim(-1.4, 1.05)
        axis.axhline(0, color="#9ca3af", linewidth=0.6)
        axis.set_xlabel("change of the logits")
    axes[0].set_ylabel("share explained to first order")
    axes[0].legend(fontsize=8)
    drawing.save(figure, out / "linearised.svg")
