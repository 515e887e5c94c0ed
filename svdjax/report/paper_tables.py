"""The paper's own values of Tables 3 and 4, to print beside what is measured.

Source: "Understanding Post-Training Structural Changes in Large Language Models",
arXiv 2509.17866: Table 3 (mean and standard deviation of the scaling of the top 90 % of the
singular values over all layers) and Table 4 (the rounded factors alpha'). A column is named
``<base model>/<variant>``; ``base'`` is a model of the same architecture pre-trained apart, for
which Table 4 has no entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "arXiv 2509.17866"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# (mean, std) in the order of PROJECTIONS; the paper lists up before gate.
_TABLE_3: Mapping[str, tuple[tuple[float, float], ...]] = {
    "Qwen2.5-Math-1.5B/base'": (
        (0.6709, 0.1728),
        (0.7017, 0.0903),
        (0.6465, 0.0432),
        (0.6293, 0.1272),
        (0.7282, 0.1179),
        (0.7242, 0.0882),
        (0.6967, 0.0274),
    ),
    "Qwen2.5-Math-1.5B/instruct": (
        (0.9071, 0.0046),
        (0.9084, 0.0053),
        (0.9026, 0.0036),
        (0.9041, 0.0036),
        (0.9018, 0.0017),
        (0.9016, 0.0010),
        (0.9019, 0.0010),
    ),
    "Qwen2.5-Math-1.5B/reasoning": (
        (0.9710, 0.0131),
        (0.9723, 0.0109),
        (0.9513, 0.0103),
        (1.3551, 0.0058),
        (0.9687, 0.0035),
        (0.9720, 0.0023),
        (0.9714, 0.0026),
    ),
    "Qwen2.5-Math-7B/base'": (
        (0.6621, 0.0827),
        (0.7033, 0.0688),
        (0.6388, 0.0368),
        (0.6257, 0.0317),
        (0.6791, 0.0514),
        (0.6693, 0.0454),
        (0.6495, 0.0140),
    ),
    "Qwen2.5-Math-7B/instruct": (
        (0.9074, 0.0043),
        (0.9103, 0.0111),
        (0.9040, 0.0047),
        (0.9056, 0.0027),
        (0.9025, 0.0013),
        (0.9021, 0.0014),
        (0.9024, 0.0016),
    ),
    "Qwen2.5-Math-7B/reasoning": (
        (0.9837, 0.0036),
        (0.9823, 0.0072),
        (0.9737, 0.0072),
        (1.3800, 0.0031),
        (0.9839, 0.0019),
        (0.9847, 0.0020),
        (0.9843, 0.0021),
    ),
    "Llama-3.1-8B/instruct": (
        (0.9960, 0.0017),
        (0.9951, 0.0008),
        (0.9957, 0.0009),
        (0.9975, 0.0027),
        (0.9957, 0.0003),
        (0.9961, 0.0003),
        (0.9961, 0.0003),
    ),
    "Llama-3.1-8B/reasoning": (
        (1.0041, 0.0181),
        (0.9898, 0.0058),
        (0.9930, 0.0093),
        (1.4112, 0.0187),
        (0.9988, 0.0033),
        (1.0036, 0.0041),
        (1.0035, 0.0044),
    ),
    "Qwen2.5-14B/instruct": (
        (0.9990, 0.0006),
        (0.9989, 0.0003),
        (0.9989, 0.0002),
        (0.9989, 0.0002),
        (0.9991, 0.0015),
        (0.9991, 0.0021),
        (0.9990, 0.0006),
    ),
    "Qwen2.5-14B/reasoning": (
        (0.9937, 0.0142),
        (0.9901, 0.0064),
        (0.9861, 0.0031),
        (1.3952, 0.0017),
        (0.9924, 0.0119),
        (0.9922, 0.0132),
        (0.9909, 0.0062),
    ),
}

_TABLE_4: Mapping[str, tuple[float, ...]] = {
    "Qwen2.5-Math-1.5B/instruct": (0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9),
    "Qwen2.5-Math-1.5B/reasoning": (1.0, 1.0, 1.0, 1.4, 1.0, 1.0, 1.0),
    "Qwen2.5-Math-7B/instruct": (0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9),
    "Qwen2.5-Math-7B/reasoning": (1.0, 1.0, 1.0, 1.4, 1.0, 1.0, 1.0),
    "Llama-3.1-8B/instruct": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "Llama-3.1-8B/reasoning": (1.0, 1.0, 1.0, 1.4, 1.0, 1.0, 1.0),
    "Qwen2.5-14B/instruct": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "Qwen2.5-14B/reasoning": (1.0, 1.0, 1.0, 1.4, 1.0, 1.0, 1.0),
}


@dataclass(frozen=True)
class PaperColumn:
    """One row of Table 3 with its row of Table 4, by projection name.

    Attributes:
        key: ``<base model>/<variant>``.
        alpha: Projection to (mean, std) of Table 3.
        alpha_prime: Projection to the factor of Table 4; empty for ``base'``.
    """

    key: str
    alpha: Mapping[str, tuple[float, float]]
    alpha_prime: Mapping[str, float]


def paper_column(key: str | None) -> PaperColumn | None:
    """Returns the paper's values for a key such as ``Qwen2.5-Math-1.5B/instruct``, else None."""
    if not key or key not in _TABLE_3:
        return None
    return PaperColumn(
        key=key,
        alpha=dict(zip(PROJECTIONS, _TABLE_3[key], strict=True)),
        alpha_prime=dict(zip(PROJECTIONS, _TABLE_4.get(key, ()))),
    )


def paper_keys() -> tuple[str, ...]:
    """Returns every key that the paper's Table 3 has a row for."""
    return tuple(_TABLE_3)
