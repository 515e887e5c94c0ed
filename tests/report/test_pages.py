"""Pages parse, are self-contained, escape what they are told, and say what the numbers say."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import pathlib
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from svdjax.report import page as page_module
from svdjax.report.blob import Blob
from svdjax.report.page import slug
from svdjax.report.paper_tables import paper_column
from svdjax.spectra.findings import findings, lead
from svdjax.sweep.pages import write_report
from tests.report import synthetic
from tests.report.pages import (
    HOSTILE,
    Page,
    assert_links_lead_somewhere,
    assert_self_contained,
    meta_of,
    pair_page,
)

UPLOT = {
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


@pytest.fixture(scope="module")
def page(workdir: pathlib.Path) -> Page:
    return Page(workdir / "report.html")


def test_a_page_needs_nothing_from_outside(workdir):
    for path in (workdir / "report.html", workdir / "base-instruct" / "report.html"):
        assert_self_contained(path)


def test_every_link_leads_somewhere(workdir):
    for path in workdir.glob("**/report.html"):
        assert_links_lead_somewhere(path)


def test_figures_are_drawn_only_where_they_are_asked_for(workdir, related, tmp_path):
    files = {path.stem for path in (workdir / "base-instruct" / "figures").glob("*.png")}
    assert len(files) == 5 + 7
    assert len(list((workdir / "figures").glob("*.png"))) == 4
    few = dataclasses.replace(related, projections={"k_proj": related["k_proj"]})
    pair_page(few, tmp_path)
    assert not list(tmp_path.glob("**/figures"))
    pair_page(few, tmp_path, figures="svg")
    (svg, *_) = (tmp_path / "pair" / "figures").glob("corners_*.svg")
    assert svg.read_text(encoding="utf-8").startswith("<?xml")


def test_no_drawing_is_on_the_way_to_the_page(tmp_path):
    code = "import sys, svdjax.sweep.pages; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pair_has_a_page_that_leads_to_the_sweeps(workdir):
    page = Page(workdir / "base-instruct" / "report.html")
    assert ("a", {"id": "target", "href": "../report.html#pair=base-instruct"}) in page.tags


def test_the_data_hold_the_numbers(related, workdir):
    meta = meta_of(workdir / "report.html")
    pair = meta["pairs"][0]
    assert pair["name"] == "base-instruct"
    assert [group["name"] for group in pair["groups"]] == list(related.projections)
    columns = {column["key"]: column for column in pair["columns"]}
    for group, (name, projection) in enumerate(related.projections.items()):
        found = columns["nf"]["values"][group]
        np.testing.assert_allclose(found, projection.nf, rtol=1e-5, err_msg=name)
    assert [one["key"] for one in pair["verdicts"]] == [
        *("scaling", "rotation", "relation", "stands_out")
    ]
    assert pair["verdicts"][2]["answer"] == "yes, the rotations agree"
    assert meta["pairs"][1]["verdicts"][2]["answer"] == "no, as unrelated models"


def test_arrays_keep_their_numbers():
    blob, rng = Blob(), np.random.default_rng(0)
    values = rng.standard_normal((3, 40))
    values[0, 0] = np.nan
    blob.add(np.zeros(3), "u1", 0.0, 1.0)
    blob.add(values)
    blob.add(values, "i2")
    blob.add(np.clip(values, -1, 1), "i1")
    raw = gzip.decompress(base64.b64decode(blob.pack()))
    for entry, error in zip(blob.index[1:], (1e-4, 7e-5, 5e-3), strict=True):
        kind = np.dtype(f"<{entry['t']}")
        stored = np.frombuffer(raw, kind, 120, entry["o"]).reshape(entry["s"])
        found = stored * entry["k"] + entry["b"]
        assert stored[0, 0] in (65535, -32768, -128)
        expected = np.clip(values, -1, 1) if entry["t"] == "i1" else np.clip(values, -4, 4)
        np.testing.assert_allclose(found.ravel()[1:], expected.ravel()[1:], atol=error)


def test_the_vendored_code_is_what_was_published():
    folder = pathlib.Path(page_module.__file__).parent / "web" / "uplot"
    assert {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == UPLOT


def test_the_summary_says_what_the_numbers_say(related, page):
    q = related["q_proj"]
    assert f"{q.alpha_mean:.4f}" in page.text
    assert f"{100 * q.nf_mean / q.nf_unrelated:.2g}\u202f% of what an unrelated model" in page.text
    assert "nearly uniform" in lead(related)
    assert "less than half as far as in unrelated ones" in lead(related)
    assert "largest difference of a mean scaling factor" in page.text
    assert "2 were left out" in page.text


def test_what_does_not_occur_is_not_spoken_of(page):
    assert "Residual rotations" in page.text
    for words in ("Left out:", "Equation 13", "tands out from", "tanding out:"):
        assert words not in page.text


def test_other_numbers_give_other_sentences():
    few = {name: synthetic.SHAPES[name] for name in ("q_proj", "k_proj")}
    unrelated = synthetic.family(alpha=0.0, change=1.0, seed=2, shapes=few)
    text = lead(unrelated)
    assert "as independently as in unrelated" in text
    assert "No projection's singular values were scaled by one factor" in text
    assert "Every matrix reaches at least 80 %" in " ".join(findings(unrelated, None))


def test_noise_is_not_sold_as_a_common_rotation():
    rng = np.random.default_rng(5)
    base = rng.standard_normal((3, 16, 8))
    post = base + 0.05 * rng.standard_normal(base.shape)
    text = lead(synthetic.comparison([synthetic.result("k_proj", "self_attn", base, post)]))
    assert "in k_proj no relation beyond what the magnitudes of the change give" in text
    assert "one rotation (" not in text


def test_a_common_rotation_is_one():
    rng = np.random.default_rng(6)
    base = rng.standard_normal((2, 16, 8))
    u, s, vt = np.linalg.svd(base, full_matrices=False)
    skew = 0.02 * rng.standard_normal((2, 8, 8))
    q, _ = np.linalg.qr(np.eye(8) + skew - np.swapaxes(skew, 1, 2))
    q = q * np.sign(np.diagonal(q, axis1=1, axis2=2))[:, None, :]
    post = (u @ q * s[:, None, :]) @ np.swapaxes(np.swapaxes(vt, 1, 2) @ q, 1, 2)
    text = lead(synthetic.comparison([synthetic.result("k_proj", "self_attn", base, post)]))
    assert "is 1.000; in k_proj both sides turned by one rotation (p =" in text


def test_what_was_not_changed_is_named_and_kept_out_of_the_figures():
    rng = np.random.default_rng(7)
    base = rng.standard_normal((2, 16, 8))
    same = synthetic.result("k_proj", "self_attn", base, 0.9 * base)
    moved = synthetic.result(
        "v_proj", "self_attn", base, base + 0.1 * rng.standard_normal(base.shape)
    )
    both = synthetic.comparison([same, moved])
    assert "2 of 4 matrices equal those of the base up to a factor (all of k_proj)" in lead(both)
    only = synthetic.comparison([same])
    text = " ".join([lead(only), *findings(only, None)])
    assert "Every matrix equals that of the base up to a factor" in text
    assert "NF is 0 within its error" in text
    assert "e-1" not in text.partition("Precision")[0]


def test_the_paper_is_compared_by_the_numbers(related):
    column = paper_column("Qwen2.5-Math-1.5B/reasoning")
    assert column is not None
    (line,) = (one for one in findings(related, column) if "Table 3" in one)
    gap = abs(related["o_proj"].alpha_mean - 1.3551)
    assert f"{gap:.4f} (o_proj)" in line
    assert not [one for one in findings(related, None) if "Table 3" in one]


def test_hostile_names_are_text(tmp_path):
    base = np.random.default_rng(0).standard_normal((1, 4, 4))
    one = synthetic.result(HOSTILE, HOSTILE, base, 2 * base)
    coverage = {"analysed": [HOSTILE], "left_out": {HOSTILE: HOSTILE}, "notes": [HOSTILE]}
    names = dict.fromkeys(("base", "post", "family", "pair"), HOSTILE)
    comparison = synthetic.comparison([one], coverage=coverage, options={HOSTILE: HOSTILE}, **names)
    page = assert_self_contained(pair_page(comparison, tmp_path, paper=HOSTILE, figures="png"))
    assert "<script>alert('x')</script>\"&{{ 7 * 7 }}" in page.text
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert {p.parent for p in tmp_path.glob("**/*.png")} == {
        tmp_path / "pair" / "figures",
        tmp_path / "figures",
    }


def test_an_unmatched_paper_key_is_said(workdir, tmp_path):
    base = np.random.default_rng(0).standard_normal((1, 4, 4))
    comparison = synthetic.comparison([synthetic.result("w", "", base, base)])
    text = Page(pair_page(comparison, tmp_path, paper="Qwen9/instruct")).text
    assert "no row 'Qwen9/instruct'" in text


def test_a_pair_with_nothing_analysed_still_has_a_page(tmp_path):
    comparison = synthetic.comparison([])
    page = Page(pair_page(comparison, tmp_path))
    assert "No matrix could be compared" in page.text
    assert "No pair has been analysed" in Page(write_report(tmp_path, {})).text


def test_the_page_has_all_pairs(page):
    assert "base-instruct" in page.text
    assert "base-other" in page.text


def test_a_long_table_is_cut_on_the_page_and_says_so(related, tmp_path):
    row = related["k_proj"]
    many = {f"t{i}x": dataclasses.replace(row, name=f"t{i}x") for i in range(320)}
    from svdjax.spectra.tables import pair_tables
    from svdjax.spectra.views import pair_views

    comparison = dataclasses.replace(related, projections=many)
    view = pair_views(pair_tables(comparison, None), None)[0]
    assert (len(view.rows), view.hidden) == (300, 20)


def test_nothing_temporary_is_left(workdir):
    assert not list(workdir.glob("**/.*"))


def test_slugs_are_safe_names():
    assert slug("q_proj") == "q_proj"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("重み") == "x"
    assert len(slug("a" * 400)) == 48
