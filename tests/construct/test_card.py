"""The model card says what was done, and how much changed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from svdjax.construct import markdown
from svdjax.construct.recipes import RECIPES
from tests.construct import harness
from tests.support import tiny


def tables(text: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The two tables of a card: what was done, and by projection what changed."""
    assert text.startswith("---\n")
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.replace("\\|", "¦").splitlines()
        if line.startswith("| ")
    ]
    about = {row[0]: row[1] for row in rows if len(row) == 2}
    heads, *changes = (row for row in rows if len(row) > 2 and row[0] != "---")
    return about, {row[0]: dict(zip(heads, row, strict=True)) for row in changes}


CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("eq9", {"alpha": "auto_raw"}),
    ("eq10", {"modules": r"self_attn\.(o|k)_proj|x", "signs": "aligned", "layers": "0,2-"}),
    ("eq12", {"modules": r"self_attn\.(o|k)_proj|x", "layers": "1"}),
)


@pytest.mark.parametrize(("equation", "options"), CASES)
def test_every_number_is_that_of_numpy(equation, options, square, tmp_path):
    base, post, other = square
    recipe = RECIPES[equation]
    if recipe.partner == "other":
        options = options | {"other": str(other)}
    # float32, as post is: what is measured is what lies on disk, to seven digits.
    out = harness.run(base, post, equation, tmp_path / "out", **options).path
    text = (out / "README.md").read_text("utf-8")
    about, rows = tables(text)
    assert about["construction"].startswith(f"eq. {recipe.number}, ")
    assert about["new W_post"] == recipe.formula
    # Published: names, not where its author keeps files.
    assert about["base"].startswith(f"`{base.name}`")
    assert about["post"] == f"`{post.name}`"
    assert str(base.parent) not in text
    assert ("other" in about) == (recipe.partner == "other")
    assert ("signs of pairs" in about) == recipe.signed
    assert ("α′" in about) == recipe.scaled
    assert about["layers"] == {"": "0..3", "0,2-": "0,2..3", "1": "1"}[options.get("layers", "")]
    modules = options.get("modules", "all")
    assert about["modules"].startswith(f"`{modules}`:".replace("|", "¦"))
    layers = {"": range(4), "0,2-": (0, 2, 3), "1": (1,)}[options.get("layers", "")]
    assert rows.keys() == (
        {"o_proj", "k_proj"} if "modules" in options else harness.means(base, post).keys()
    )
    for name, row in rows.items():
        check_row(name, row, layers, post, out)
        if recipe.scaled:
            assert float(row["α′"]) == pytest.approx(harness.means(base, post)[name], rel=1e-5)
        if recipe.signed:
            assert row["arbitrary signs"] == arbitrary(name, layers, base, post)


def check_row(name, row, layers, post, out) -> None:
    """Changes and ratios of a projection, from the tensors as stored."""
    before, after = (
        [value.astype(np.float64) for value in of(name, layers, side)] for side in (post, out)
    )
    steps = np.array([np.linalg.norm(b - a) for a, b in zip(before, after)])
    old, new = (np.array([np.linalg.norm(w) for w in side]) for side in (before, after))
    ratios = [harness.top_ratios(a, b) for a, b in zip(before, after)]
    assert row["matrices"] == str(len(layers))
    assert row["rank-deficient"] == "0"
    # Four digits are printed; the singular values are those before rounding to float32.
    close: Any = {"rel": 2e-3}
    assert float(row["change"]) == pytest.approx(
        np.linalg.norm(steps) / np.linalg.norm(old), **close
    )
    least, _, most = row["smallest … largest"].split()
    assert float(least) == pytest.approx(np.min(steps / old), **close)
    assert float(most) == pytest.approx(np.max(steps / old), **close)
    assert float(row["norm ratio"]) == pytest.approx(
        np.linalg.norm(new) / np.linalg.norm(old), **close
    )
    mean, low, _, high = row["σ ratio"].replace("(", "").replace(")", "").split()
    assert float(mean) == pytest.approx(np.mean([r.mean() for r in ratios]), **close)
    assert float(low) == pytest.approx(np.min(ratios), **close)
    assert float(high) == pytest.approx(np.max(ratios), **close)


def of(name, layers, side) -> list[np.ndarray]:
    """The matrices of a projection."""
    tensors = tiny.read_tensors(side)
    return [
        next(v for k, v in tensors.items() if f"layers.{layer}." in k and f"{name}.weight" in k)
        for layer in layers
    ]


def arbitrary(name, layers, base, post) -> str:
    """Share of pairs whose alignment |u.u' + v.v'| is below 0.1."""
    shares = []
    for pair in zip(of(name, layers, base), of(name, layers, post)):
        (ub, _, vb), (up, _, vp) = (np.linalg.svd(w.astype(np.float64), False) for w in pair)
        shares.append(np.mean(np.abs(np.sum(ub * up, 0) + np.sum(vb * vp, 1)) < 0.1))
    return f"{100 * np.mean(shares):.3g} %"


def test_paths_cannot_forge_a_card(square, tmp_path):
    base, _, _ = square
    evil = tmp_path / "a | b\n---\nlicense: evil\n# head"
    post = tiny.perturb(base, evil)
    out = harness.run(base, post, "eq14", tmp_path / "out", modules="o_proj").path
    text = (out / "README.md").read_text("utf-8")
    assert "\nlicense" not in text
    assert sum(line.startswith("# ") for line in text.splitlines()) == 1
    about, _ = tables(text)
    assert "a ¦ b\\n---\\nlicense: evil" in about["post"]


def test_a_code_span_cannot_be_left():
    for text in ("a`<img src=x>`b", "``", "`", "x``` y", "", "a|b"):
        span = markdown.code(text)
        fence = span[: len(span) - len(span.lstrip("`"))]
        inside = span[len(fence) : -len(fence)]
        # CommonMark: a span ends at the next run of exactly as many backticks.
        assert all(len(run) != len(fence) for run in re.findall("`+", inside))
        assert inside.strip() == text.strip()
    assert markdown.identifier("self_attn.o_proj") == "self_attn.o_proj"
    assert markdown.identifier("<b>x") == "`<b>x`"
    assert markdown.table_row(("a|b", "c")) == "| a\\|b | c |"


def test_what_a_card_calls_a_checkpoint(tmp_path):
    assert markdown.source_name(str(tmp_path / "my model")) == "my model"
    assert markdown.source_name("org/name") == "org/name"
    hub = f"/home/me/.cache/huggingface/hub/models--org--name/snapshots/{'a' * 40}"
    assert markdown.source_name(hub) == f"org/name@{'a' * 40}"
