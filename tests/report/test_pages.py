"""Pages parse, are self-contained, escape what they are told, and say what the numbers say."""

from __future__ import annotations

import base64
import dataclasses
import pathlib

import numpy as np
import pytest

from svdjax.report.page import slug
from svdjax.report.paper_tables import paper_column
from svdjax.spectra.findings import findings, lead
from svdjax.sweep.index_page import write_index
from svdjax.sweep.pair_page import write_pair
from tests.report import synthetic
from tests.report.pages import (
    HOSTILE,
    Page,
    assert_links_lead_somewhere,
    assert_self_contained,
)


@pytest.fixture(scope="module")
def page(workdir: pathlib.Path) -> Page:
    return Page(workdir / "base-instruct" / "report.html")


@pytest.fixture(scope="module")
def index(workdir: pathlib.Path) -> Page:
    return Page(workdir / "report.html")


def test_a_page_needs_nothing_from_outside(workdir):
    for path in (workdir / "report.html", workdir / "base-instruct" / "report.html"):
        assert_self_contained(path)


def test_every_link_leads_somewhere(workdir):
    for path in workdir.glob("**/report.html"):
        assert_links_lead_somewhere(path)


def test_every_figure_is_embedded_and_stands_beside(workdir, page):
    files = {path.stem: path for path in (workdir / "base-instruct" / "figures").glob("*.png")}
    pictures = [attributes for tag, attributes in page.tags if tag == "figure"]
    assert {attributes["id"] for attributes in pictures} == set(files)
    assert len(files) == 7 + 7
    embedded = [attributes for tag, attributes in page.tags if tag == "img"]
    bytes_on_disk = {path.read_bytes() for path in files.values()}
    for attributes in embedded:
        data = base64.b64decode((attributes["src"] or "").partition(",")[2])
        assert data in bytes_on_disk
        assert len(attributes["alt"] or "") > 20


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
    for words in ("Left out:", "Orange edges", "Equation 13", "tands out from", "tanding out:"):
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
    path = write_pair(comparison, tmp_path / "pair", paper=HOSTILE)
    index = write_index(tmp_path, {HOSTILE: comparison})
    for page in (Page(path), Page(index)):
        assert "script" not in {tag for tag, _ in page.tags}
        assert "<script>alert('x')</script>\"&{{ 7 * 7 }}" in page.text
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert {p.parent for p in tmp_path.glob("**/*.png")} == {
        tmp_path / "pair" / "figures",
        tmp_path / "figures",
    }


def test_an_unmatched_paper_key_is_said(workdir, tmp_path):
    base = np.random.default_rng(0).standard_normal((1, 4, 4))
    comparison = synthetic.comparison([synthetic.result("w", "", base, base)])
    assert (
        "no row 'Qwen9/instruct'"
        in Page(write_pair(comparison, tmp_path, paper="Qwen9/instruct")).text
    )


def test_a_pair_with_nothing_analysed_still_has_a_page(tmp_path):
    comparison = synthetic.comparison([])
    page = Page(write_pair(comparison, tmp_path / "pair"))
    assert "No matrix could be compared" in page.text
    assert "pair" in Page(write_index(tmp_path, {"pair": comparison})).text
    Page(write_index(tmp_path, {}))


def test_the_index_has_all_pairs(index):
    assert "base-instruct" in index.text
    assert "base-other" in index.text
    assert len([tag for tag, _ in index.tags if tag == "img"]) == 4


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
