"""What a page says of probes: which figure of the paper it is, and whose samples CKA takes."""

from __future__ import annotations

import numpy as np
import pytest

from svdjax.probe.job import cka_label
from svdjax.probe.page import probe_section
from svdjax.probe.results import ProbeResults

MODELS = {"post": "post", "base": "base", "replaced": "replaced"}


def results(samples: str) -> ProbeResults:
    rng = np.random.default_rng(1)
    heads = {f"{name}/{kind}": rng.random((3, 2)) for name in MODELS for kind in ("last", "mean")}
    maps = {name: rng.dirichlet(np.ones(6), (3, 6)) for name in MODELS}
    maps["base"] = rng.dirichlet(np.ones(5), (3, 5))
    return ProbeResults(
        pair="pair",
        prompts="prompts.jsonl",
        count=5,
        positions=7,
        settings={"samples": samples, "debiased": False},
        titles=MODELS,
        entropy=heads,
        cka={name: rng.random((3, 3)) for name in MODELS},
        maps=maps,
    )


@pytest.mark.parametrize(
    ("samples", "words", "title"),
    [
        ("prompt", "CKA over prompts (svdjax's samples, not eq. 17's)", "but over prompts"),
        ("position", "CKA over positions (eq. 17)", "(figs. 6, 19)"),
    ],
)
def test_titles_say_which_figure_and_whose_samples_it_is(tmp_path, samples, words, title):
    section = probe_section(results(samples), tmp_path)
    assert all(words in line for _, line in section.findings)
    assert section.tables[0].caption.startswith(words)
    figures = [figure for figure in section.plots if figure.title.startswith("CKA")]
    assert figures
    for figure in figures:
        assert title in figure.title
        assert figure.caption.startswith(words)
    facts = dict(section.facts)["CKA"]
    assert ("a choice of svdjax" in facts) == (samples == "prompt")
    assert ("as eq. 17 has it" in facts) == (samples == "position")
    assert cka_label(samples, True) == f"debiased {words}"
    titles = {figure.title for figure in section.plots}
    assert any(one.startswith("Attention entropy of the last") for one in titles)
    for title in titles:
        if title.startswith("Attention entropy of the last position"):
            assert title.endswith("(figs. 4b, 15 to 18)")
        elif title.startswith("Attention entropy of all positions"):
            assert "fig" not in title
    assert "Attention to the first prompt in block 1 (fig. 4a)" in titles
    assert "Difference of attention from the original in block 1 (fig. 4a)" in titles
    assert "attention_difference" in [name for draw in section.draw for name, _ in draw()]
