"""Sentences of a pair's page, made from the numbers; none holds a result of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.nulls.findings import null_clause
from svdjax.report.numbers import decimal, ends, listed, percent, plus_minus, significant, span
from svdjax.report.paper_tables import PaperColumn
from svdjax.spectra.corotation_findings import corotation_lead, corotation_line
from svdjax.spectra.experts import experts_finding
from svdjax.spectra.scaling_findings import (
    UNIFORM,
    is_even,
    least_squares,
    scaling_judgements,
    scaling_lead,
)
from svdjax.spectra.standout_findings import odd_scaling, standout_finding, standout_lead
from svdjax.spectra.storage_findings import (
    quantisation_finding,
    quantisation_lead,
    storage_finding,
    storage_lead,
    storage_line,
)
from svdjax.spectra.tables import over, ratio

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults
    from svdjax.spectra.results import Comparison, ProjectionResult

SAME = 1e-12  # relative size of a change that is rounding of float64
MOST_LINES = 24


def projection_lines(comparison: Comparison) -> list[tuple[str, str]]:
    """A sentence or two per projection: (name, text)."""
    lines = []
    for name, projection in comparison.projections.items():
        parts = [_line(projection.carried), corotation_line(comparison, name)]
        lines.append((name, " ".join(filter(None, parts)) + storage_line(projection)))
    return lines


def findings(comparison: Comparison, paper: PaperColumn | None) -> list[str]:
    """Sentences at the top of a pair's page, most important first."""
    projections = [projection.carried for projection in comparison.projections.values()]
    if not projections:
        return ["No matrix could be compared: see what was left out, and why, below."]
    sentences = (
        standout_finding(comparison),
        experts_finding(comparison),
        _scaling(projections),
        _spread(projections),
        _vectors(projections),
        _rank(projections),
        _ambiguous(projections),
        storage_finding(list(comparison.projections.values())),
        quantisation_finding(projections),
        _fit(projections),
        _against_paper(projections, paper),
        _precision(projections),
    )
    return [sentence for sentence in sentences if sentence]


def lead(comparison: Comparison, nulls: NullResults | None = None) -> str:
    """The result in a few sentences, each chosen by the numbers it quotes; stand-outs first.

    Args:
        comparison: The pair.
        nulls: Results of the nulls stage, whose judgements the verdict on scaling rests on.
    """
    projections = [projection.carried for projection in comparison.projections.values()]
    matrices = _matrices(projections)
    sentences = (
        standout_lead(comparison),
        f"{matrices} {'matrix' if matrices == 1 else 'matrices'} of {len(projections)} "
        f"{'projection' if len(projections) == 1 else 'projections'} compared.",
        storage_lead(projections),
        quantisation_lead(projections),
        _unchanged(projections),
        scaling_lead(projections, scaling_judgements(nulls), odd_scaling(comparison)),
        _lead_vectors(projections),
        corotation_lead(comparison),
        null_clause(nulls) if nulls is not None else "",
    )
    return " ".join(sentence for sentence in sentences if sentence)


def coverage_counts(comparison: Comparison) -> list[tuple[str, int]]:
    """Reasons for leaving tensors out with their counts, most frequent first."""
    return Counter(dict(comparison.coverage.get("left_out", {})).values()).most_common()


def _matrices(projections: Sequence[ProjectionResult]) -> int:
    return sum(projection.matrices for projection in projections)


def _same(projection: ProjectionResult) -> np.ndarray:
    """Which matrices equal those of the base up to a factor, bool [L]."""
    return np.asarray(projection.metrics.fit_identity_error) <= SAME


def _unchanged(projections: Sequence[ProjectionResult]) -> str:
    total = _matrices(projections)
    count = sum(int(_same(p).sum()) for p in projections)
    if not count:
        return ""
    if count == total:
        return "Every matrix equals that of the base up to a factor: nothing was turned."
    names = [p.name for p in projections if _same(p).all()]
    which = f" (all of {listed(names)})" if names else ""
    return f"{count} of {total} matrices equal those of the base up to a factor{which}."


def _lead_vectors(projections: Sequence[ProjectionResult]) -> str:
    shares = nf_shares(projections)
    if not shares.size:
        return ""
    level = (
        f"NF is {percent(float(np.median(shares)))} (median) of what unrelated matrices give, "
        f"{percent(float(shares.min()))} to {percent(float(shares.max()))} for single matrices."
    )
    if (shares < 0.5).all():
        defined = all(np.isfinite(p.nf).all() for p in projections)
        which = "matrix" if defined else "matrix for which NF is defined"
        return (
            f"In every {which} left and right singular vectors turned apart less than half as far "
            f"as in unrelated ones, which any small change brings about: {level}"
        )
    if (shares >= 0.8).all():
        return (
            "Left and right singular vectors turned about as independently as in unrelated "
            f"matrices: {level}"
        )
    return f"How far left and right singular vectors turned apart differs: {level}"


def _line(projection: ProjectionResult) -> str:
    if math.isfinite(projection.alpha_mean):
        text = (
            f"σ post / σ base {plus_minus(projection.alpha_mean, projection.alpha_std)}, by least "
            f"squares {decimal(least_squares(projection))}; "
        )
    else:
        text = "the scaling of the singular values is not defined; "
    if not math.isfinite(projection.nf_mean):
        nf = significant(over(np.mean, projection.metrics.nf_rank))
        return text + f"NF is not defined (rank-deficient), on the common rank it is {nf}."
    if _same(projection).all():
        return text + "nothing else was changed (NF is 0 within its error)."
    return text + (
        f"NF {significant(projection.nf_mean)}, {percent(_mean_share(projection))} of what an "
        f"unrelated model would give ({significant(projection.nf_unrelated)})."
    )


def _scaling(projections: Sequence[ProjectionResult]) -> str:
    defined = [p for p in projections if math.isfinite(p.alpha_mean)]
    if not defined:
        return "Scaling factors are not defined for any projection."
    low = min(defined, key=lambda p: p.alpha_mean)
    high = max(defined, key=lambda p: p.alpha_mean)
    factors = decimal(low.alpha_mean), decimal(high.alpha_mean)
    if factors[0] == factors[1]:
        text = f"Singular values: the mean of σ post / σ base is {factors[0]}"
    else:
        text = (
            f"Singular values: the means of σ post / σ base of the projections lie "
            f"{span(*factors)}, lowest in {low.name}, highest in {high.name}"
        )
    return (
        f"{text}; by least squares, which a change without any scaling leaves at 1, the factor is "
        f"{ends(map(least_squares, defined), decimal)}."
    )


def _spread(projections: Sequence[ProjectionResult]) -> str:
    defined = [p for p in projections if math.isfinite(p.alpha_mean) and p.alpha_mean > 0]
    if not defined:
        return ""
    even = [p.name for p in defined if is_even(p)]
    uneven = [p.name for p in defined if not is_even(p)]
    spreads = [p.alpha_std / p.alpha_mean for p in defined]
    if not uneven:
        result = f"within it for every projection, at most {percent(max(spreads))}"
    elif not even:
        result = f"beyond it for every projection, at least {percent(min(spreads))}"
    else:
        result = f"within it for {listed(even)}; beyond it for {listed(uneven)}"
    return (
        "Spread of these factors (standard deviation over layers and the top 90 % of the singular "
        f"values, against a threshold of {percent(UNIFORM)} of the mean): {result}."
    )


def _vectors(projections: Sequence[ProjectionResult]) -> str:
    changed = [p for p in projections if math.isfinite(p.nf_mean) and not _same(p).all()]
    shares = nf_shares(projections)
    if not changed or not shares.size:
        if any(_same(p).any() for p in projections):
            return "Singular vectors: NF is 0 within its error, as nothing was turned."
        return "Singular vectors: NF is not defined for any projection."
    low, high = min(changed, key=_mean_share), max(changed, key=_mean_share)
    means = percent(_mean_share(low)), percent(_mean_share(high))
    extremes = "" if means[0] == means[1] else f", lowest in {low.name}, highest in {high.name}"
    return (
        "Singular vectors: mean NF, as a share of what unrelated matrices of the same shape would "
        f"give, is {span(*means)}{extremes}; single matrices range from {percent(shares.min())} to "
        f"{percent(shares.max())} (median {percent(float(np.median(shares)))}). {_levels(shares)}"
    )


def _mean_share(projection: ProjectionResult) -> float:
    """Mean NF over the level of unrelated matrices."""
    return projection.nf_mean / projection.nf_unrelated


def nf_shares(projections: Sequence[ProjectionResult]) -> np.ndarray:
    """NF / NF_unrelated of every matrix that has one and was changed by more than a factor."""
    shares = [np.zeros(0)]
    for projection in projections:
        share = np.asarray(projection.nf, np.float64) / projection.nf_unrelated
        shares.append(share[np.isfinite(share) & ~_same(projection)])
    return np.concatenate(shares)


def _levels(shares: np.ndarray) -> str:
    """Where the matrices lie on the way from same (0) to unrelated (about 1)."""
    below, near, total = int((shares < 0.5).sum()), int((shares >= 0.8).sum()), shares.size
    if below == total:
        return "Every matrix is below half of the unrelated level."
    if near == total:
        return "Every matrix reaches at least 80 % of the unrelated level."
    return (
        f"{below} of {total} matrices are below half of the unrelated level, {near} reach at "
        "least 80 % of it."
    )


def _rank(projections: Sequence[ProjectionResult]) -> str:
    count = sum(int(p.rank_deficient.sum()) for p in projections)
    if not count:
        return ""
    names = [p.name for p in projections if p.rank_deficient.any()]
    return (
        f"{count} of {_matrices(projections)} matrices are numerically rank-deficient on one side "
        f"({listed(names)}): NF is not defined there; NF on the common rank stands beside it."
    )


def _ambiguous(projections: Sequence[ProjectionResult]) -> str:
    """Matrices in which eq. 13 has no common rotation."""
    count = sum(int(p.ambiguous_rotation.sum()) for p in projections)
    if not count:
        return ""
    names = [p.name for p in projections if p.ambiguous_rotation.any()]
    return (
        f"Equation 13: in {count} of {_matrices(projections)} matrices ({listed(names)}) Q1 + Q2 "
        "is singular, as it is where the determinants of Q1 and Q2 have opposite signs, so that no "
        "common rotation is the nearest to both: the fit with it and its residuals are left out "
        "there."
    )


def _fit(projections: Sequence[ProjectionResult]) -> str:
    errors = [over(np.mean, p.metrics.fit_identity_error) for p in projections]
    if not np.isfinite(errors).any():
        return ""
    return (
        "Equation 8 as a fit: scaling alone leaves a relative error of "
        f"{ends(errors, percent)} (mean of a projection)."
    )


def _against_paper(projections: Sequence[ProjectionResult], paper: PaperColumn | None) -> str:
    if paper is None:
        return ""
    gaps = [
        (abs(p.alpha_mean - paper.alpha[p.name][0]), p.name)
        for p in projections
        if p.name in paper.alpha and math.isfinite(p.alpha_mean)
    ]
    if not gaps:
        return f"The paper's row {paper.key} has no projection in common with this pair."
    largest, name = max(gaps)
    return (
        f"Against the paper's Table 3 ({paper.key}): the largest difference of a mean scaling "
        f"factor is {decimal(largest)} ({name})."
    )


def _precision(projections: Sequence[ProjectionResult]) -> str:
    metrics = [projection.metrics for projection in projections]
    nf = over(np.max, [over(np.max, m.nf_error) for m in metrics])
    sigma = over(
        np.max, [over(np.max, ratio(m.sigma_error, m.sigma_base[..., 0])) for m in metrics]
    )
    uncertain = sum(int(p.uncertain.sum()) for p in projections)
    note = (
        f" In {uncertain} matrices NF may be off by more than 1e-5 of the unrelated level."
        if uncertain
        else ""
    )
    return (
        f"Precision: the factorisation's own estimated error is at most {significant(nf, 2)} in "
        f"NF and {significant(sigma, 2)} of the largest singular value in σ.{note}"
    )
