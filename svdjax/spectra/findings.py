"""What was found, in sentences made from the numbers. No sentence holds a result of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.nulls.findings import null_clause
from svdjax.report.numbers import decimal, listed, percent, plus_minus, significant, span
from svdjax.report.paper_tables import PaperColumn
from svdjax.spectra.corotation_findings import corotation_lead, corotation_line
from svdjax.spectra.scaling_findings import (
    UNIFORM,
    is_even,
    least_squares,
    scaling_judgements,
    scaling_lead,
    scaling_span,
)
from svdjax.spectra.standout_words import odd_scaling, standout_line, standout_sentence
from svdjax.spectra.storage_findings import storage_findings, storage_lead, storage_line
from svdjax.spectra.tables import over, ratio

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults
    from svdjax.spectra.results import Comparison, ProjectionResult

SAME = 1e-12  # relative size of a change that is rounding of float64
MOST_LINES = 24


def projection_lines(comparison: Comparison) -> list[tuple[str, str]]:
    """One sentence per projection: (name, sentence)."""
    lines = []
    for name, one in comparison.projections.items():
        turned = corotation_line(comparison, name)
        text = _line(one.carried) + (f" {turned}" if turned else "") + storage_line(one)
        lines.append((name, text))
    return lines


def findings(comparison: Comparison, paper: PaperColumn | None) -> list[str]:
    """The sentences at the top of a pair's page, most important first."""
    results = [one.carried for one in comparison.projections.values()]
    if not results:
        return ["No matrix could be compared: see what was left out, and why, below."]
    lines = [standout_line(comparison), _scaling(results), *_spread(results)]
    lines += [_vectors(results), *_rank(results), *_ambiguous(results)]
    lines += storage_findings(list(comparison.projections.values()))
    lines += [*_fit(results), *_against_paper(results, paper), _precision(results)]
    return [line for line in lines if line]


def lead(comparison: Comparison, nulls: NullResults | None = None) -> str:
    """The result in a few sentences, each chosen by the numbers it quotes.

    What stands out comes first.

    Args:
      comparison: the pair.
      nulls: results of the nulls stage, which judge the scaling where they are there.
    """
    results = [one.carried for one in comparison.projections.values()]
    matrices = sum(one.layers for one in results)
    kinds = f"{len(results)} {'projection' if len(results) == 1 else 'projections'}"
    head = f"{matrices} {'matrix' if matrices == 1 else 'matrices'} of {kinds} compared."
    parts = [standout_sentence(comparison), head, *storage_lead(results), *_unchanged(results)]
    parts += scaling_lead(results, scaling_judgements(nulls), odd_scaling(comparison))
    parts += [*_lead_vectors(results), corotation_lead(comparison)]
    parts += [null_clause(nulls)] if nulls is not None else []
    return " ".join(part for part in parts if part)


def _same(one: ProjectionResult) -> np.ndarray:
    """Which matrices equal those of the base up to a factor, bool [layers]."""
    return np.asarray(one.metrics.fit_identity_error) <= SAME


def _unchanged(results: Sequence[ProjectionResult]) -> list[str]:
    total = sum(one.layers for one in results)
    count = sum(int(_same(one).sum()) for one in results)
    if not count:
        return []
    if count == total:
        return ["Every matrix equals that of the base up to a factor: nothing was turned."]
    whole = [one.name for one in results if _same(one).all()]
    which = f" (all of {listed(whole)})" if whole else ""
    return [f"{count} of {total} matrices equal those of the base up to a factor{which}."]


def _lead_vectors(results: Sequence[ProjectionResult]) -> list[str]:
    shares = _shares(results)
    if not shares.size:
        return []
    level = (
        f"NF is {percent(float(np.median(shares)))} (median) of what unrelated matrices give, "
        f"{percent(float(shares.min()))} to {percent(float(shares.max()))} for single matrices."
    )
    if (shares < 0.5).all():
        defined = all(np.isfinite(np.asarray(one.nf)).all() for one in results)
        which = "matrix" if defined else "matrix for which NF is defined"
        return [
            f"In every {which} left and right singular vectors turned apart less than half as far "
            f"as in unrelated ones, which any small change brings about: {level}"
        ]
    if (shares >= 0.8).all():
        return [
            "Left and right singular vectors turned about as independently as in unrelated "
            f"matrices: {level}"
        ]
    return [f"How far left and right singular vectors turned apart differs: {level}"]


def coverage_counts(comparison: Comparison) -> list[tuple[str, int]]:
    """Reasons for leaving tensors out with how many each, most frequent first."""
    return Counter(dict(comparison.coverage.get("left_out", {})).values()).most_common()


def _line(one: ProjectionResult) -> str:
    if math.isfinite(one.alpha_mean):
        factors = plus_minus(one.alpha_mean, one.alpha_std)
        text = f"σ post / σ base {factors}, by least squares {decimal(least_squares(one))}; "
    else:
        text = "the scaling of the singular values is not defined; "
    if not math.isfinite(one.nf_mean):
        restricted = significant(over(np.mean, one.metrics.nf_rank))
        return text + f"NF is not defined (rank-deficient), on the common rank it is {restricted}."
    if _same(one).all():
        return text + "nothing else was changed (NF is 0 within its error)."
    share = percent(one.nf_mean / one.nf_unrelated)
    return text + (
        f"NF {significant(one.nf_mean)}, {share} of what an unrelated model would give "
        f"({significant(one.nf_unrelated)})."
    )


def _scaling(results: Sequence[ProjectionResult]) -> str:
    known = [one for one in results if math.isfinite(one.alpha_mean)]
    if not known:
        return "Scaling factors are not defined for any projection."
    low, high = min(known, key=_alpha), max(known, key=_alpha)
    ends = span(decimal(low.alpha_mean), decimal(high.alpha_mean))
    if low is high or decimal(low.alpha_mean) == decimal(high.alpha_mean):
        text = f"Singular values: the mean of σ post / σ base is {ends}"
    else:
        text = (
            f"Singular values: the means of σ post / σ base of the projections lie {ends}, lowest "
            f"in {low.name}, highest in {high.name}"
        )
    return (
        f"{text}; by least squares, which a change without any scaling leaves at 1, the factor is "
        f"{scaling_span(known)}."
    )


def _spread(results: Sequence[ProjectionResult]) -> list[str]:
    known = [one for one in results if math.isfinite(one.alpha_mean) and one.alpha_mean > 0]
    even = [one.name for one in known if is_even(one)]
    uneven = [one.name for one in known if not is_even(one)]
    if not known:
        return []
    head = (
        "Spread of these factors (standard deviation over layers and the top 90 % of the singular "
        f"values, against a threshold of {percent(UNIFORM)} of the mean): "
    )
    if not uneven:
        most = max(one.alpha_std / one.alpha_mean for one in known)
        return [head + f"within it for every projection, at most {percent(most)}."]
    if not even:
        least = min(one.alpha_std / one.alpha_mean for one in known)
        return [head + f"beyond it for every projection, at least {percent(least)}."]
    return [head + f"within it for {listed(even)}; beyond it for {listed(uneven)}."]


def _vectors(results: Sequence[ProjectionResult]) -> str:
    known = [one for one in results if math.isfinite(one.nf_mean) and not _same(one).all()]
    shares = _shares(results)
    if not known or not shares.size:
        if any(_same(one).any() for one in results):
            return "Singular vectors: NF is 0 within its error, as nothing was turned."
        return "Singular vectors: NF is not defined for any projection."
    low, high = min(known, key=_share), max(known, key=_share)
    text = (
        "Singular vectors: mean NF, as a share of what unrelated matrices of the same shape would "
        f"give, is {span(percent(_share(low)), percent(_share(high)))}"
    )
    if percent(_share(low)) != percent(_share(high)):
        text += f", lowest in {low.name}, highest in {high.name}"
    return text + (
        f"; single matrices range from {percent(shares.min())} to {percent(shares.max())} "
        f"(median {percent(float(np.median(shares)))}). {_nearness(shares)}"
    )


def _shares(results: Sequence[ProjectionResult]) -> np.ndarray:
    """NF / NF_unrelated of every matrix that has one and was changed by more than a factor."""
    shares = [
        np.where(_same(one), np.nan, np.asarray(one.nf, np.float64) / one.nf_unrelated)
        for one in results
    ]
    every = np.concatenate(shares) if shares else np.zeros(0)
    return every[np.isfinite(every)]


def _nearness(shares: np.ndarray) -> str:
    """Where the matrices lie on the way from same (0) to unrelated (about 1)."""
    below, near = int((shares < 0.5).sum()), int((shares >= 0.8).sum())
    total = shares.size
    if below == total:
        return "Every matrix is below half of the unrelated level."
    if near == total:
        return "Every matrix reaches at least 80 % of the unrelated level."
    return (
        f"{below} of {total} matrices are below half of the unrelated level, {near} reach at "
        "least 80 % of it."
    )


def _rank(results: Sequence[ProjectionResult]) -> list[str]:
    count = sum(int(np.sum(one.rank_deficient)) for one in results)
    if not count:
        return []
    total = sum(one.layers for one in results)
    names = [one.name for one in results if np.any(one.rank_deficient)]
    return [
        f"{count} of {total} matrices are numerically rank-deficient on one side "
        f"({listed(names)}): NF is not defined there; NF on the common rank stands beside it."
    ]


def _ambiguous(results: Sequence[ProjectionResult]) -> list[str]:
    """Where eq. 13 has no common rotation."""
    count = sum(int(one.ambiguous_rotation.sum()) for one in results)
    if not count:
        return []
    total = sum(one.layers for one in results)
    names = [one.name for one in results if one.ambiguous_rotation.any()]
    return [
        f"Equation 13: in {count} of {total} matrices ({listed(names)}) Q1 + Q2 is singular, as it "
        "is where the determinants of Q1 and Q2 have opposite signs, so that no common rotation is "
        "the nearest to both: the fit with it and its residuals are left out there."
    ]


def _fit(results: Sequence[ProjectionResult]) -> list[str]:
    errors = [over(np.mean, one.metrics.fit_identity_error) for one in results]
    if not np.isfinite(errors).any():
        return []
    return [
        "Equation 8 as a fit: scaling alone leaves a relative error of "
        f"{_ends(errors)} (mean of a projection)."
    ]


def _ends(values: Sequence[float]) -> str:
    return span(percent(over(np.min, values)), percent(over(np.max, values)))


def _against_paper(results: Sequence[ProjectionResult], paper: PaperColumn | None) -> list[str]:
    if paper is None:
        return []
    gaps = [
        (abs(one.alpha_mean - paper.alpha[one.name][0]), one.name)
        for one in results
        if one.name in paper.alpha and math.isfinite(one.alpha_mean)
    ]
    if not gaps:
        return [f"The paper's row {paper.key} has no projection in common with this pair."]
    worst, name = max(gaps)
    return [
        f"Against the paper's Table 3 ({paper.key}): the largest difference of a mean scaling "
        f"factor is {decimal(worst)} ({name})."
    ]


def _precision(results: Sequence[ProjectionResult]) -> str:
    nf = max((over(np.max, one.metrics.nf_error) for one in results), key=_or_zero)
    sigma = max(
        (
            over(np.max, ratio(one.metrics.sigma_error, one.metrics.sigma_base[:, 0]))
            for one in results
        ),
        key=_or_zero,
    )
    uncertain = sum(int(one.uncertain.sum()) for one in results)
    more = (
        f" In {uncertain} matrices NF may be off by more than 1e-5 of the unrelated level."
        if uncertain
        else ""
    )
    return (
        f"Precision: the factorisation's own estimated error is at most {significant(nf, 2)} in "
        f"NF and {significant(sigma, 2)} of the largest singular value in σ.{more}"
    )


def _alpha(one: ProjectionResult) -> float:
    return one.alpha_mean


def _share(one: ProjectionResult) -> float:
    return one.nf_mean / one.nf_unrelated


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
