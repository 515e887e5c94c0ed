"""The fingerprint table: disguise x pair -> distance, p-value, verdict, seconds; and changes.

    python tools/fingerprint_table.py
    python tools/fingerprint_table.py --table=changes

Takes the reference family, stories260k (../shared, if it is there) and small models that it trains
itself, from several seeds on the same data and on from one another; disguises the suspect of every
pair in every way, proves each exact disguise by equal logits, and gives every pair the verdict of
`python -m svdjax.fingerprint` at its default thresholds. Prints the table as markdown and writes
all numbers as JSON. Pairs count as related where one was trained on from the other, or both from
one; models of the same data and architecture from different seeds are unrelated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import tempfile
import time
from typing import Any

from absl import flags

from svdjax import cli
from svdjax.engine.process import prepare_process

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_TABLE = flags.DEFINE_enum("table", "disguises", ["disguises", "changes"], "Which of the two.")
_JSON = flags.DEFINE_string(
    "json",
    "",
    "File for the numbers; docs/benchmarks/fingerprint-<date>.json by default, "
    "fingerprint-changes-<date>.json for the second table.",
)
_SHARED = flags.DEFINE_string(
    "shared", str(_ROOT.parent / "shared"), "Folder with checkpoints/stories260k."
)
_MODELS = flags.DEFINE_string(
    "models", "", "Keep (and find again) the trained models here, not in a temporary folder."
)
_STEPS = flags.DEFINE_integer("steps", 300, "Steps of the models trained from scratch.", 20)
_NAMES = ("neurons", "heads", "groups", "vo", "values", "planes", "updown", "norms", "rotation")
DISGUISES = ((), *((name,) for name in _NAMES), ("all",), ("all", "bf16"), ("all", "noise"))

RELATED = (
    *(("base", "instruct"), ("base", "reasoning"), ("instruct", "reasoning")),
    *(("qwen_a", "qwen_a_answers"), ("qwen_a", "qwen_a_prime"), ("qwen_b", "qwen_b_prime")),
    ("qwen_a_answers", "qwen_a_prime"),
    *(("llama_a", "llama_a_prime"), ("llama_b", "llama_b_prime")),
    *(("stories260k", "stories_world"), ("stories260k", "stories_prime")),
    ("stories_world", "stories_prime"),
)
UNRELATED = (
    *(("base", "base_prime"), ("base_prime", "instruct"), ("base_prime", "reasoning")),
    *(("base", "qwen_a"), ("base_prime", "qwen_b"), ("instruct", "qwen_a_answers")),
    *(("qwen_a", "qwen_b"), ("qwen_a_prime", "qwen_b_prime")),
    *(("stories260k", "llama_a"), ("stories_world", "llama_b"), ("llama_a", "llama_b")),
    *(("llama_a_prime", "llama_b_prime"), ("stories_prime", "llama_a_prime")),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One fingerprint."""

    reference: str
    suspect: str
    related: bool
    disguise: str
    distance: float
    log10_p: float
    verdict: str
    residual: str
    seconds: float
    raw_nf: float


def main() -> str:
    """Makes the models and the table."""
    prepare_process()
    from svdjax.atomic import write_json
    from svdjax.engine import devices

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        kept = pathlib.Path(_MODELS.value).absolute() if _MODELS.value else place / "models"
        models = _models(kept, _TABLE.value)
        if _TABLE.value == "changes":
            return _changes(models, place)
        rows = []
        for related, pairs in ((True, RELATED), (False, UNRELATED)):
            for reference, suspect in pairs:
                if reference in models and suspect in models:
                    rows += _pair(models, reference, suspect, related, place)
    summary = _summary(rows) | {"seconds": time.perf_counter() - begun}
    file = pathlib.Path(
        _JSON.value or _ROOT / "docs/benchmarks" / f"fingerprint-{time.strftime('%Y-%m-%d')}.json"
    )
    versions = devices.versions()
    value = {
        "summary": summary,
        "versions": versions,
        "rows": [dataclasses.asdict(r) for r in rows],
    }
    write_json(file, value)
    return f"{_markdown(rows, summary)}\n\n{file}"


def _changes(models: dict[str, pathlib.Path], place: pathlib.Path) -> str:
    import benchmark_shared
    import fingerprint_changes

    from svdjax.atomic import write_json

    result = {"machine": benchmark_shared.machine(), **fingerprint_changes.measure(models, place)}
    file = pathlib.Path(
        _JSON.value
        or _ROOT / "docs/benchmarks" / f"fingerprint-changes-{time.strftime('%Y-%m-%d')}.json"
    )
    write_json(file, result)
    return f"{fingerprint_changes.markdown(result)}\n\n{file}"


def _models(folder: pathlib.Path, table: str) -> dict[str, pathlib.Path]:
    import fingerprint_models

    from svdjax import reference
    from svdjax.engine.progress import note

    models = {name: reference.path(name) for name in reference.NAMES}
    stories = pathlib.Path(_SHARED.value) / "checkpoints" / "stories260k"
    if stories.is_dir():
        models["stories260k"] = stories
    else:
        note(f"{stories} is not there: its pairs are left out")
    folder.mkdir(parents=True, exist_ok=True)
    runs = fingerprint_models.runs(stories if stories.is_dir() else None, _STEPS.value)
    wanted = {name for pair in RELATED + UNRELATED for name in pair}
    if table == "changes":
        import fingerprint_changes

        wanted = fingerprint_changes.names()
    for name, run in reversed(runs.items()):
        wanted |= {run.parent, run.teacher} if name in wanted else set()
    for name, run in runs.items():
        if name not in wanted:
            continue
        if (folder / name).is_dir():
            models[name] = folder / name
        else:
            note(fingerprint_models.train(name, run, models, folder))
    return models


def _pair(
    models: dict[str, pathlib.Path],
    reference: str,
    suspect: str,
    related: bool,
    scratch: pathlib.Path,
) -> list[Row]:
    import disguise as disguises

    from svdjax.engine.progress import note

    rows = []
    for number, names in enumerate(DISGUISES):
        path = models[suspect]
        if names:
            path = scratch / f"{suspect}-{'-'.join(names)}"
            if not path.exists():
                disguises.make(str(models[suspect]), path, names, seed=number)
        row = _row(models[reference], path, (reference, suspect), related, "+".join(names))
        note(
            f"{reference} {suspect} {row.disguise or 'none'}: {row.distance:.4f} {row.verdict} "
            f"({row.seconds:.1f} s)"
        )
        rows.append(row)
    return rows


def _row(
    reference: pathlib.Path,
    suspect: pathlib.Path,
    names: tuple[str, str],
    related: bool,
    disguise: str,
) -> Row:
    import numpy as np

    import svdjax
    from svdjax.fingerprint.job import FingerprintJob
    from svdjax.fingerprint.run import fingerprint

    with contextlib.redirect_stderr(io.StringIO()):
        found = fingerprint(FingerprintJob(str(reference), str(suspect), "unused.json"))
        raw = svdjax.compare(reference, suspect, factorisation="svd_f32", corner=1)
    ratios = [np.mean(p.metrics.nf_rank) / p.nf_unrelated for p in raw.projections.values()]
    return Row(
        *names,
        related,
        disguise,
        found["distance"],
        found["log10_p_value"],
        found["verdict"],
        found["alignment"]["residual"],
        found["seconds"],
        float(np.mean(ratios)),
    )


def _summary(rows: list[Row]) -> dict[str, Any]:
    related = [row.distance for row in rows if row.related]
    unrelated = [row.distance for row in rows if not row.related]
    wins = [(a < b) + 0.5 * (a == b) for a in related for b in unrelated]
    wrong = [row for row in rows if row.verdict != ("related" if row.related else "unrelated")]
    return {
        "fingerprints": len(rows),
        "pairs_related": len({(r.reference, r.suspect) for r in rows if r.related}),
        "pairs_unrelated": len({(r.reference, r.suspect) for r in rows if not r.related}),
        "auc": sum(wins) / len(wins),
        "errors": len(wrong),
        "wrong": [dataclasses.asdict(row) for row in wrong],
        "related_distance": [min(related), max(related)],
        "unrelated_distance": [min(unrelated), max(unrelated)],
        "unrelated_smallest_log10_p": min(row.log10_p for row in rows if not row.related),
    }


def _markdown(rows: list[Row], summary: dict[str, Any]) -> str:
    """Disguises by pairs in short, and every pair in full."""
    lines = [
        "| disguise | raw NF / unrelated, related pairs | distance, related | distance, unrelated "
        "| errors | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for names in DISGUISES:
        mine = [row for row in rows if row.disguise == "+".join(names)]
        ours = [row for row in mine if row.related]
        others = [row for row in mine if not row.related]
        wrong = [r for r in mine if r.verdict != ("related" if r.related else "unrelated")]
        lines.append(
            f"| {', '.join(names) or 'none'} | {_span([r.raw_nf for r in ours], 2)} "
            f"| {_span([r.distance for r in ours], 4)} | {_span([r.distance for r in others], 4)} "
            f"| {len(wrong)} of {len(mine)} | {_span([r.seconds for r in mine], 1)} |"
        )
    lines += ["", "| reference | suspect | disguise | distance | p <= | verdict | seconds |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    lines += [
        f"| {r.reference} | {r.suspect} | {r.disguise or 'none'} | {r.distance:.4f} "
        f"| 1e{round(r.log10_p)} | {r.verdict} | {r.seconds:.1f} |"
        for r in rows
    ]
    lines += [
        "",
        f"{summary['pairs_related']} related and {summary['pairs_unrelated']} unrelated pairs, "
        f"{summary['fingerprints']} fingerprints: {summary['errors']} errors, AUC "
        f"{summary['auc']:.4f}, {summary['seconds']:.0f} s in all",
    ]
    return "\n".join(lines)


def _span(values: list[float], digits: int) -> str:
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}" if values else "–"


if __name__ == "__main__":
    cli.run(main)
