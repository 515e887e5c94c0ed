"""The contract of a stage: what a capability offers to a sweep after the spectra.

A sweep, its dry run, its closing lines and its pages know this contract and no stage by name; the
stages there are stand in `svdjax.sweep.stages`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from svdjax.engine.context import Context
    from svdjax.engine.cost import Rates
    from svdjax.engine.inputs import PairJob
    from svdjax.engine.pairs import PairSpec
    from svdjax.engine.work.unit import Work
    from svdjax.report.matrices import MatrixData
    from svdjax.report.panels import Panel
    from svdjax.report.section import Section
    from svdjax.spectra.results import Comparison
    from svdjax.sweep.config import Settings

Read = TypeVar("Read")


class SharedInputs:
    """Inputs that several stages read of the same pairs, read once.

    Attributes:
        jobs: The validated pairs.
        settings: Of the sweep.
    """

    def __init__(self, jobs: Sequence[PairJob], settings: Settings):
        self.jobs, self.settings = jobs, settings
        self._read: dict[Callable[..., Any], Any] = {}

    def of(self, read: Callable[[Sequence[PairJob], Settings], Read]) -> Read:
        """Inputs that `read` makes of the pairs and settings; the first call may raise."""
        if read not in self._read:
            self._read[read] = read(self.jobs, self.settings)
        return self._read[read]


class Forecast(NamedTuple):
    """Predicted time of a stage.

    Attributes:
        lines: For the end of a dry run.
        seconds: Of its work, programs aside.
        programs: Roughly how many it has to load, or to compile the first time.
    """

    lines: list[str]
    seconds: float = 0.0
    programs: int = 0


class PairPage(NamedTuple):
    """Contents of a page that its sections may need.

    Attributes:
        panels: What is drawn of the pair (`svdjax.report.panels`).
        paper: The column of the paper's tables, None for none.
    """

    panels: Sequence[Panel]
    paper: str | None


class Stage:
    """A stage of a sweep; a subclass says what it has, and loads what is heavy when it is asked.

    Attributes:
        name: In ``config.stages`` and sweep.json.
        file: Of a pair's results, which a sweep names at its end.
        place: Where its section stands on a page, ascending.
        anchor: Of its section; sections of one anchor become one.
        title: Heading of that section.
        label: The same in the page's list of sections, where that is to be shorter.
        explanation: Template beside the page's that explains it, empty for none.
        figures: How many its section has, roughly, where their files are asked for.
        index_anchor: Of its section on the index, where that is another.
        index_title: Heading of that.
    """

    name = ""
    file = ""
    place = 0
    anchor = title = label = explanation = ""
    figures = 0
    index_anchor = index_title = ""

    def pairs(self, specs: Iterable[PairSpec]) -> list[str]:
        """Names of the pairs of which it leaves results."""
        return [spec.name for spec in specs]

    def prepare(self, inputs: SharedInputs) -> Any:
        """Reads and checks its inputs, before anything is computed.

        Raises:
            InputError: With every fault of every pair.
        """
        del inputs

    def digests(self, prepared: Any) -> dict[str, Any]:
        """Digests of what it read, for sweep.json."""
        del prepared
        return {}

    def run(
        self,
        jobs: Sequence[PairJob],
        comparisons: Mapping[str, Comparison],
        prepared: Any,
        context: Context,
    ) -> dict[str, Any]:
        """Does its work, and leaves the results of each pair in its directory; returns them."""
        raise NotImplementedError

    def work(
        self,
        jobs: Sequence[PairJob],
        comparisons: Mapping[str, Comparison],
        prepared: Any,
        context: Context,
    ) -> Work:
        """What computes its units, on a worker too; the arguments are those of `run`.

        `run` hands the analyses to the workers (`svdjax.engine.context.Context.pair_by_pair`).
        """
        raise NotImplementedError

    def load(self, folder: pathlib.Path) -> Any:
        """Reads the results of a pair from its directory.

        Raises:
            InputError: They are missing, damaged or of another version.
        """
        raise NotImplementedError

    def forecast_pair(self, job: PairJob, settings: Settings) -> list[str]:
        """Lines of a dry run below a pair's table."""
        del job, settings
        return []

    def forecast(self, inputs: SharedInputs, prepared: Any, rates: Rates) -> Forecast:
        """Predicts its time.

        Args:
            inputs: Pairs and settings.
            prepared: As `prepare` returned it.
            rates: Of all devices together.
        """
        del inputs, prepared, rates
        return Forecast([])

    def cells(self, results: Any) -> dict[str, str]:
        """Cells of a pair in the table that a sweep ends with, by column."""
        del results
        return {}

    def section(self, results: Any, folder: pathlib.Path, page: PairPage) -> Section:
        """Writes its tables of a pair; returns what the page shows of it.

        Args:
            results: Of the pair.
            folder: The pair's.
            page: What else is on it.
        """
        raise NotImplementedError

    def matrix_data(self, results: Any) -> MatrixData | None:
        """What it knows of every matrix of a pair, for the page's map, table and first screen."""
        del results
        return None

    def index_section(
        self, results: Mapping[str, Any], folder: pathlib.Path, papers: Mapping[str, str]
    ) -> Section | None:
        """Writes its part of a sweep's index, where it has anything to say.

        Args:
            results: By pair.
            folder: The sweep's.
            papers: The paper's models by pair, where they are the paper's.
        """
        del results, folder, papers
        return None
