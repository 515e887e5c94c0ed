"""What the studies share: kept pieces, intervals, pages that say what the figures say."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from svdjax.errors import InputError
from tools.studies import pages, statistics, study


@dataclasses.dataclass(frozen=True)
class Settings:
    numbers: tuple[int, ...] = (1, 2, 3)


computed: list[int] = []


def _square(number: int) -> int:
    computed.append(number)
    if number == 3 and len(computed) == 3:
        raise KeyboardInterrupt
    return number * number


def _measure(settings: Settings, runs: study.Runs) -> dict[str, int]:
    return runs.spread(_square, {f"square/{n}": n for n in settings.numbers})


def test_an_interrupted_study_goes_on_with_the_next_piece(tmp_path: pathlib.Path):
    squares = study.Study("squares", Settings(), Settings((1,)), _measure)
    with pytest.raises(KeyboardInterrupt):
        squares.perform(tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()
    record = squares.perform(tmp_path / "out", tmp_path / "work")
    assert computed == [1, 2, 3, 3]
    assert record["figures"] == {"square/1": 1, "square/2": 4, "square/3": 9}
    assert json.loads((tmp_path / "out/squares.json").read_text("utf-8")) == record
    with pytest.raises(InputError, match="begun with other settings"):
        squares.perform(tmp_path / "out", tmp_path / "work", quick=True)


def test_pieces_in_processes_of_their_own_are_the_same(tmp_path: pathlib.Path):
    runs = study.Runs(tmp_path, processes=2)
    assert runs.spread(abs, {str(n): n for n in (-1, -2, -3)}) == {"-1": 1, "-2": 2, "-3": 3}


def test_intervals_are_the_textbook_ones():
    found = statistics.interval([1.0, 2.0, 3.0, 6.0])
    # t(3) = 3.182446 at 97.5 %, s / sqrt(4) = sqrt(14/3) / 2
    half = 3.182446305 * np.sqrt(14 / 3) / 2
    assert found["mean"] == 3
    np.testing.assert_allclose([found["low"], found["high"]], [3 - half, 3 + half], rtol=1e-8)
    # Wilson's interval of 8 of 10, z = 1.959964
    share, z, n = 0.8, 1.959963985, 10
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    found = statistics.proportion(8, 10)
    np.testing.assert_allclose([found["low"], found["high"]], [middle - half, middle + half])
    values = np.random.default_rng(1).normal(5, 2, 400).tolist()
    found = statistics.bootstrap(values)
    normal = 1.96 * np.std(values) / 20
    np.testing.assert_allclose(found["high"] - found["low"], 2 * normal, rtol=0.1)
    with pytest.raises(ValueError, match="two values"):
        statistics.interval([1.0])


def test_a_page_says_only_what_the_figures_say(tmp_path: pathlib.Path):
    (tmp_path / "x.md").write_text(
        "{{ f.gain | percent }}, {{ f.gain | value(2) }}, {{ f.loss | digits(1) }}"
        "{{ claim(f.gain.low > 0) }}.\n",
        encoding="utf-8",
    )
    gain = {"mean": 0.5, "low": 0.25, "high": 0.751}
    page = pages.render("x", {"figures": {"gain": gain, "loss": -0.26}}, tmp_path)
    assert page == "50.0 % (25.0 to 75.1), 0.50 (0.25 to 0.75), −0.3.\n"
    with pytest.raises(pages.UnbackedClaimError, match="claim 1"):
        pages.render("x", {"figures": {"gain": gain | {"low": -0.1}, "loss": 1.0}}, tmp_path)


NAMES = sorted(path.stem for path in pages.TEMPLATES.glob("*.md"))


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_what_the_figures_make_of_the_templates(name: str):
    record = json.loads((study.PAGES / f"{name}.json").read_text("utf-8"))
    assert record["study"] == name
    assert not record["quick"]
    assert (study.PAGES / f"{name}.md").read_text("utf-8") == pages.render(name, record), (
        "run python -m tools.studies.pages"
    )
