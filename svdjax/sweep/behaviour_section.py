"""The part of a pair's report that tells what its models do: answers, then what went on inside."""

from __future__ import annotations

import pathlib
from itertools import chain
from typing import TYPE_CHECKING

from svdjax.evaluate.page import answers_section
from svdjax.probe.page import insides_section
from svdjax.report.section import Section
from svdjax.temperature.page import temperature_section

if TYPE_CHECKING:
    from svdjax.evaluate.results import EvaluationResults
    from svdjax.probe.results import ProbeResults
    from svdjax.temperature.results import TemperatureResults


def behaviour_section(
    probes: ProbeResults | None,
    evaluation: EvaluationResults | None,
    folder: pathlib.Path,
    paper: str | None,
    temperature: TemperatureResults | None = None,
) -> Section | None:
    """Writes tables and figures of what a pair's models do; returns what its page shows.

    Args:
      probes: results of the probes stage, if there are any.
      evaluation: results of the evaluation stage, likewise.
      folder: the pair's.
      paper: as in `svdjax.sweep.pair_page.write_pair`.
      temperature: results of the temperature stage, likewise.
    """
    parts = []
    if evaluation is not None:
        parts.append(answers_section(evaluation, folder, paper))
    if probes is not None:
        parts.append(insides_section(probes, folder))
    if temperature is not None:
        parts.append(temperature_section(temperature, folder))
    if not parts:
        return None
    return Section(
        lead=" ".join(part.lead for part in parts),
        findings=list(chain.from_iterable(part.findings for part in parts)),
        facts=list(chain.from_iterable(part.facts for part in parts)),
        # Both may have the same to say of a model.
        notes=list(dict.fromkeys(chain.from_iterable(part.notes for part in parts))),
        tables=list(chain.from_iterable(part.tables for part in parts)),
        figures=list(chain.from_iterable(part.figures for part in parts)),
        files=list(chain.from_iterable(part.files for part in parts)),
    )
