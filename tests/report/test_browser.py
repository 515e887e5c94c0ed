"""The page in Chromium: it loads, is chosen from by pointer and keys, filters, saves and prints.

Needs selenium, chromium and chromedriver (Debian: ``apt install chromium chromium-driver``), the
test for accessibility axe-core too (``npm install axe-core``, or its path in ``AXE_CORE``).
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from svdjax.evaluate.page import answers_section
from svdjax.spectra.results import Comparison
from svdjax.sweep.pages import write_report
from svdjax.sweep.trajectory import from_start, pair_name, step_to_step
from tests.report import synthetic
from tests.report.pages import HOSTILE
from tests.report.test_answers import results as answers_of

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("no chromium with chromedriver", allow_module_level=True)

AXE = pathlib.Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
DEEP = 80
ODD = (17, 5)
"""Layer, by its place after three dense ones, and expert that changed most."""
# Attributes in which a name could break out of its text.
NASTY = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


@pytest.fixture(scope="module")
def folder(related: Comparison, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Pairs: related with a stand-out, deep, of experts, and one of tensors with hostile names."""
    deep = [
        synthetic.planted(synthetic.deep(name, DEEP, seed=seed), "svsm", 41, 1.15)
        for seed, name in enumerate(("q_proj", "up_proj", "down_proj"))
    ]
    strange = [synthetic.part(deep[0], 0, name=name) for name in (NASTY, HOSTILE)]
    experts = [
        synthetic.of_experts(name, 30, 64, first=3, seed=seed)
        for seed, name in enumerate(("experts.gate_proj", "experts.down_proj"))
    ]
    experts[0] = synthetic.planted(experts[0], "norm_delta", ODD, 40.0)
    dense = synthetic.deep("q_proj", 33)
    pairs = {
        "base-instruct": dataclasses.replace(related, pair="base-instruct"),
        "deep": synthetic.comparison(deep, pair="deep", base=NASTY, post=HOSTILE),
        "mixture": synthetic.comparison([dense, *experts], pair="mixture"),
        "strange": synthetic.comparison(strange, pair="strange", family=NASTY),
    }
    folder = tmp_path_factory.mktemp("browser")
    evaluation = answers_of("gsm8k", note=NASTY)
    responses = folder / "deep" / "responses" / "gsm8k"
    responses.mkdir(parents=True)
    line = {"id": "1", "prompt": NASTY, "response": f"{NASTY} forty-two", "answer": "42"}
    line |= {"extracted": "42", "correct": True, "reason": "", "tokens": 7, "stopped": True}
    for model in evaluation.scores:
        (responses / f"{model}.jsonl").write_text(f"{json.dumps(line)}\n")
    write_report(folder, pairs, results={"evaluation": {"deep": evaluation}})
    assert answers_section(evaluation, folder / "deep", None).answers
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    downloads = tmp_path_factory.mktemp("downloads")
    prefs = {"download.default_directory": str(downloads)}
    prefs |= {"profile.default_content_setting_values.automatic_downloads": 1}
    options.add_experimental_option("prefs", prefs)
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    driver.downloads = downloads  # pyright: ignore[reportAttributeAccessIssue]
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, folder: pathlib.Path) -> Iterator[Any]:
    """Opens the page at a fragment; afterwards nothing was logged and nothing foreign ran."""

    def open_at(fragment: str = "", width: int = 1400) -> Any:
        browser.set_window_size(width, 1000)
        browser.get("about:blank")
        browser.get((folder / "report.html").as_uri() + fragment)
        _wait(lambda: browser.execute_script("return window.ready"))
        return browser

    yield open_at
    assert browser.execute_script("return window.hacked") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def _wait(condition: Any, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)
    return value


def _one(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def _saved(driver: Any, name: str) -> pathlib.Path:
    path = driver.downloads / name
    _wait(path.is_file)
    return path


def test_it_opens_with_verdicts_and_what_stands_out_a_click_away(opened):
    page = opened("#pair=deep")
    cards = {
        card.get_attribute("data-key"): card
        for card in page.find_elements("css selector", "#cards .card")
    }
    assert list(cards) == ["scaling", "rotation", "relation", "stands_out"]
    jumps = cards["stands_out"].find_elements("css selector", "button")
    assert len(jumps) == 3
    jumps[-1].click()
    name = jumps[-1].text.partition(" of ")[0]
    assert _one(page, "#selected h2").text == f"Selected: {name}, layer 41"
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_a_link_opens_it_at_a_matrix_and_follows_the_choice(opened):
    page = opened("#pair=deep&matrix=up_proj.7&by=corotation")
    assert _one(page, "#selected h2").text == "Selected: up_proj, layer 7"
    assert _one(page, "#by").get_attribute("value") == "corotation"
    _one(page, ".map").send_keys("\ue014")  # arrow right
    assert "matrix=up_proj.8" in page.execute_script("return location.hash")
    _one(page, ".map").send_keys("\ue015")  # arrow down
    assert _one(page, "#selected h2").text == "Selected: down_proj, layer 8"


def test_a_click_on_the_map_selects_and_hovering_tells(opened):
    page = opened("#pair=base-instruct")
    canvas = _one(page, ".map canvas")
    actions = webdriver.ActionChains(page)
    wide, high = canvas.size["width"], canvas.size["height"]
    actions.move_to_element_with_offset(canvas, wide // 2 - 20, 36 - high // 2).perform()
    assert "k_proj, layer 2" in _one(page, "#tip").text
    assert "scaling factor" in _one(page, "#tip").text
    actions.click().perform()
    assert _one(page, "#selected h2").text == "Selected: k_proj, layer 2"


def test_selecting_is_quick_at_eighty_layers(opened):
    page = opened("#pair=deep")
    times = page.execute_script(
        "return [...Array(9).keys()].map((i) => { select(1, 8 * i); return lastSelection; })"
    )
    # 50 ms on an idle machine; the tests' may be anything but.
    assert np.median(times) < 250


def test_experts_are_mapped_by_layer_ranked_and_selected(opened):
    page = opened("#pair=mixture&by=change")
    cards = _one(page, "#cards .card[data-key=experts]")
    assert cards.find_element("css selector", "b").text.startswith("layer 20, expert 5: ")
    cards.find_element("css selector", "button").click()
    assert _one(page, "#selected h2").text == "Selected: experts.gate_proj, layer 20, expert 5"
    assert "matrix=experts.gate_proj.20.5" in page.execute_script("return location.hash")
    canvas = _one(page, ".map canvas")
    # Rows of the map: one of q_proj, then the experts of each projection; columns: layers.
    x, y, width, height = page.execute_script(
        "const m = document.querySelector('.mark').getBoundingClientRect(), c ="
        " document.querySelector('.map canvas').getBoundingClientRect(); return"
        " [m.left + m.width / 2 - c.left, m.top + m.height / 2 - c.top, c.width, c.height]"
    )
    actions = webdriver.ActionChains(page)
    actions.move_to_element_with_offset(
        canvas, round(x - width / 2), round(y - height / 2)
    ).perform()
    assert "experts.gate_proj, layer 20, expert 5" in _one(page, "#tip").text
    column = page.execute_script(
        "const g = pairOf().groups;"
        "return [g[0].columns[20], g[1].columns[17], layout(pairOf()).deep]"
    )
    assert column == [20, 20, 33]
    _one(page, ".map").send_keys("\ue015")  # arrow down
    assert _one(page, "#selected h2").text == "Selected: experts.gate_proj, layer 20, expert 6"
    _one(page, ".map").send_keys("\ue014")  # arrow right
    assert _one(page, "#selected h2").text == "Selected: experts.gate_proj, layer 21, expert 6"
    page = opened("#pair=mixture&matrix=experts.gate_proj.3.63")
    _one(page, ".map").send_keys("\ue015")
    assert _one(page, "#selected h2").text == "Selected: experts.down_proj, layer 3, expert 0"
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    page.execute_script("document.querySelector('#mapSave .save button:nth-child(2)').click()")
    assert _saved(page, "mixture-nf_over_unrelated.svg").read_bytes().startswith(b"<svg")


def test_filter_words_find_experts(opened):
    page = opened("#pair=mixture")
    total = 33 + 2 * 30 * 64
    for words, count in (
        ("expert=5", 2 * 30),
        ("expert>61", 2 * 30 * 2),
        ("gate expert=5 layer>20", 12),
        ("expert>61 layer<3", 0),
        ("q_proj", 33),
    ):
        field = _one(page, "#filter")
        field.clear()
        field.send_keys(words)
        assert _one(page, "#count").text == f"{count} of {total} matrices"
    assert _one(page, "#matrices thead").text.split()[:3] == ["projection", "layer", "expert"]


def test_of_many_matrices_some_have_curves_and_all_have_numbers(opened):
    page = opened("#pair=mixture&matrix=experts.gate_proj.20.5")
    note = _one(page, "#curvesNote").text
    assert note.startswith(f"Curves and corners of {33 + 2 * 128} of {33 + 2 * 30 * 64} matrices")
    # What changed most is among them, and stands before the other experts of its layer.
    assert page.find_elements("css selector", "#detail .spectrum .uplot")
    assert page.find_elements("css selector", "#detail .corners canvas")
    assert "experts of the layer" in _one(page, "#detail .ratio").text
    other = page.execute_script(
        "const g = pairOf().groups[1]; return g.layers.findIndex((_, i) => !g.chosen.includes(i))"
    )
    page.execute_script(f"select(1, {other})")
    assert not page.find_elements("css selector", "#detail .spectrum .uplot")
    assert "not on this page" in _one(page, "#detail .spectrum").text
    assert "experts of the layer" in _one(page, "#detail .ratio").text
    assert "scaling factor" in _one(page, "#detail .numbers").text
    times = page.execute_script(
        "return [...Array(9).keys()].map((i) => { select(1, 200 * i); return lastSelection; })"
    )
    # 50 ms on an idle machine; the tests' may be anything but.
    assert np.median(times) < 250


def test_the_table_filters_sorts_and_is_saved(opened, folder):
    page = opened("#pair=deep")
    assert _one(page, "#count").text == f"{3 * DEEP} of {3 * DEEP} matrices"
    _one(page, "#filter").send_keys("down layer>20 layer<=45 change>1%")
    assert _one(page, "#count").text == f"25 of {3 * DEEP} matrices"
    page.execute_script("document.querySelector('button[data-key=alpha_mean]').click()")
    first = page.find_elements("css selector", "#matrices tbody tr")[0]
    assert first.find_elements("css selector", "td")[0].text == "41"
    head = _one(page, "#matrices th[aria-sort=descending]")
    assert head.text.startswith("scaling factor")
    page.execute_script("document.querySelector('#csv').click()")
    with _saved(page, "deep.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["layer"] == "41"
    with (folder / "deep" / "tables" / "layers.csv").open(encoding="utf-8") as file:
        whole = {(row["projection"], row["layer"]): row for row in csv.DictReader(file)}
    for row in rows:
        exact = whole[row["projection"], row["layer"]]
        assert float(row["nf"]) == pytest.approx(float(exact["nf"]), rel=1e-5)
    first.click()
    assert _one(page, "#selected h2").text == "Selected: down_proj, layer 41"


def test_plots_are_saved_as_png_and_svg(opened):
    page = opened("#pair=base-instruct")
    for selector, name in (("#mapSave", "base-instruct-nf_over_unrelated"), ("#bands", "bands")):
        for number, kind in enumerate(("png", "svg"), 1):
            page.execute_script(
                f"document.querySelector('{selector} .save button:nth-child({number})').click()"
            )
            data = _saved(page, f"{name}.{kind}").read_bytes()
            assert data.startswith(b"\x89PNG" if kind == "png" else b"<svg")
            assert len(data) > 1000


def test_two_pairs_stand_side_by_side(opened):
    page = opened("#pair=base-instruct&matrix=q_proj.1&beside=deep")
    titles = [each.text for each in page.find_elements("css selector", "#detail .panel-title")]
    assert titles == ["base-instruct: q_proj, layer 1", "deep: q_proj, layer 1"]
    assert len(page.find_elements("css selector", ".map canvas")) == 2
    page = opened("#pair=deep&beside=all")
    (title,) = page.find_elements("css selector", "#detail .panel-title")
    assert title.text.startswith("deep: ")
    page = opened("#pair=base-instruct&beside=deep")
    page.execute_script("document.querySelector('#tab-1').click()")
    assert "pair=deep" in page.execute_script("return location.hash")
    assert _one(page, "#pair-1").is_displayed()
    assert not _one(page, "#pair-0").is_displayed()


def test_hostile_names_and_answers_are_text(opened):
    page = opened("#pair=strange")
    assert NASTY in _one(page, "#matrices").text
    assert NASTY in _one(page, "#who").text
    _one(page, ".map").send_keys("\ue015")
    page = opened("#pair=deep")
    box = _one(page, "#pair-1 .answers")
    assert "4 of 4 answers" in box.text
    _one(box, "input").send_keys("right tokens<8 forty-two")
    assert "4 of 4 answers" in box.text
    _one(box, "input").send_keys(" wrong")
    assert "0 of 4 answers" in box.text
    assert not page.find_elements("css selector", "img")
    page.execute_script("drawAll()")


def test_dark_narrow_and_print(opened):
    page = opened("#pair=deep", width=400)
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    page = opened("#pair=deep")
    light = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    _one(page, "#theme").click()
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") != light
    printed = page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")
    # As printed, no table is cut at the edge.
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.set_window_size(1090, 1000)
    wide = page.execute_script(
        "dispatchEvent(new Event('beforeprint')); return [matrices.scrollWidth, innerWidth,"
        " matrices.tBodies[0].rows.length]"
    )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert wide[0] <= wide[1]
    assert wide[2] == 3 * DEEP


def test_without_code_there_is_a_table(browser, folder):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((folder / "report.html").as_uri())
        body = _one(browser, "body").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Every layer" in body
    assert "coloured by" not in body
    assert "deep: what was found" in body


@pytest.mark.skipif(not AXE.is_file(), reason=f"no axe-core: {AXE} (npm install axe-core)")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible(opened, theme):
    page = opened("#pair=deep&beside=base-instruct")
    page.execute_script(f"document.documentElement.dataset.theme = '{theme}'; drawAll();")
    page.execute_script(AXE.read_text(encoding="utf-8"))
    found = page.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert [
        (one["id"], [node["html"][:200] for node in one["nodes"]][:4])
        for one in found["violations"]
    ] == []


def test_a_slider_goes_through_a_trajectory(browser, related, tmp_path):
    labels = ("base", "10", "20")
    names = [pair_name(*pair) for pair in dict.fromkeys(from_start(labels) + step_to_step(labels))]
    pairs = {name: dataclasses.replace(related, pair=name) for name in names}
    browser.get(write_report(tmp_path, pairs, trajectory=labels).as_uri())
    _wait(lambda: browser.execute_script("return window.ready"))
    slider = _one(browser, "#trajectory-slider input")
    assert _one(browser, "#trajectory-slider output").text == "10"
    slider.send_keys("\ue014")
    assert _one(browser, "#trajectory-slider output").text == "20"
    assert "pair=base-20" in browser.execute_script("return location.hash")
    assert "Over the steps" in _one(browser, "#all").text


def test_a_pairs_own_page_leads_there(browser, folder):
    browser.get((folder / "deep" / "report.html").as_uri())
    _wait(lambda: browser.execute_script("return window.ready"))
    assert "pair=deep" in browser.execute_script("return location.hash")
