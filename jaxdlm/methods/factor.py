"""factor: as many as their joint doubt allows (arXiv 2505.22618)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain, released
from jaxdlm.registry import method
from jaxdlm.rules.sample import sample
from jaxdlm.rules.threshold import select_within_factor


@method(
    paper="2505.22618",
    idea="as many as their joint doubt allows",
    use="like threshold, where the safe number per forward matters more than each probability",
    avoid="to be compared by one number across models",
    order=80,
)
def factor(factor: Any = 1.0, temperature: Any = 0.0, official: bool = False) -> Rule:
    """Fast-dLLM: the n surest with (n + 1)(1 - p_n) < factor (2505.22618)."""
    return released(chain(sample(temperature), select_within_factor(factor, official=official)), official)
