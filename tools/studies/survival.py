"""What restorations and ablations measure: the controls of docs/findings.md over sizes and widths.

    python -m tools.studies.survival

Bases of three widths and fine-tuned models of six sizes of Δ and three seeds each, trained alike.
Of every one both restorations (eqs. 11 and 16) and the ablation of V (eq. 10, raw and aligned
signs) of attention and MLP, beside noise of the same size, base + sΔ at the same distance and with
the same share of Δ left, and the module reverted; the surviving shares beside the law of
docs/mathematics.md, section 5; the same of planted changes, Gaussian ones and common and opposite
rotations. About 25 minutes on one core.
"""

from __future__ import annotations

import pathlib
from typing import Any

from tools.studies import drawing
from tools.studies.study import Runs, Study
from tools.studies.survival_figures import figures
from tools.studies.survival_models import Training
from tools.studies.survival_pieces import (
    Item,
    Settings,
    measure_base,
    measure_tuned,
)

FULL = Settings()
QUICK = Settings(
    training=Training(layers=1, base_steps=4, steps=4, rows=2),
    widths=(16,),
    peaks=(3e-4, 3e-3),
    seeds=(0, 1),
    text_step=30,
    text_rows=2,
    ladder=(0.01, 0.3),
)


def measure(settings: Settings, runs: Runs) -> dict[str, Any]:
    """Measures the figures of the page."""
    folder = runs.folder / "training"
    bases = {str(width): Item(settings, folder, width) for width in settings.widths}
    told = runs.spread(measure_base, {f"base/{name}": item for name, item in bases.items()})
    items = {
        f"tuned/{width}/{number}/{seed}": Item(settings, folder, width, seed, peak)
        for width in settings.widths
        for number, peak in enumerate(settings.peaks)
        for seed in settings.seeds
    }
    tuned = runs.spread(measure_tuned, items)
    return figures(
        settings,
        {name: told[f"base/{name}"] for name in bases},
        {
            f"{width}/{number}": [
                tuned[f"tuned/{width}/{number}/{seed}"] for seed in settings.seeds
            ]
            for width in settings.widths
            for number in range(len(settings.peaks))
        },
    )


def draw(found: dict[str, Any], folder: pathlib.Path) -> None:
    """Draws shares along the ladder, and what edits cost by their size and by what they remove."""
    figure, (left, middle, right) = drawing.panels(3)
    widths = list(found["ladder"])
    for width in widths:
        drawing.draw_line(
            left, found["sizes"], found["ladder"][width]["gaussian"], f"width {width}"
        )
    left.set(xscale="log", xlabel="size of Δ, of the base", ylabel="share left / law")
    left.set_title("Gaussian Δ", fontsize=9)
    left.legend()
    for width in widths:
        cells = [cell for cell in found["damage"] if cell.startswith(f"{width}/")]
        color = left.get_lines()[widths.index(width)].get_color()
        rows = [found["damage"][cell]["V_self_attn"] for cell in cells]
        x = [row["change"] for row in rows]
        for kind, style in (("", "-"), ("interpolated", "--"), ("noise", ":")):
            y = [row["kl"] / (row[kind] if kind else 1) for row in rows]
            middle.plot(x, y, style, color=color, marker="o", markersize=3, linewidth=1.2)
        points = [
            (found["damage"][cell][name]["removed"], found["damage"][cell][name])
            for cell in cells
            for name in ("V_self_attn", "U_self_attn", "V_mlp", "U_mlp")
        ]
        right.plot(
            [x for x, _ in points],
            [row["same_share"] for _, row in points],
            "o",
            color=color,
            markersize=3,
        )
    middle.set(xscale="log", yscale="log", xlabel="size of the edit", ylabel="KL, nats")
    middle.set_title("V of attention — restored, -- base + sΔ, ·· noise", fontsize=8)
    right.axhline(1, color="grey", linewidth=0.8)
    right.set(yscale="log", xlabel="share of Δ removed", ylabel="KL / KL of removing it alone")
    right.set_title("restorations", fontsize=9)
    drawing.save(figure, folder / "survival.svg")


STUDY = Study("survival", FULL, QUICK, measure, draw)

if __name__ == "__main__":
    STUDY.run()
