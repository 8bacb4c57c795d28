"""hierarchical: threshold, and the surest of every run of masks (arXiv 2510.08666)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.hierarchical import select_by_runs
from jaxdlm.rules.sample import sample


@method(
    paper="2510.08666",
    idea="threshold, and the surest of every run of masks",
    use="text whose neighbours depend on each other: what is written cuts the rest into independent parts",
    avoid="columns that depend on others far away",
    order=234,
)
def hierarchical(tau: Any = 0.92, low: Any = 0.62, temperature: Any = 0.0) -> Rule:
    """dInfer's hierarchical decoder: p > tau, and the surest of each run of masks with p > low (2510.08666).

    tau, low: 0.92 and 0.62, those of its evaluation.
    """
    return chain(sample(temperature), select_by_runs(tau, low))
