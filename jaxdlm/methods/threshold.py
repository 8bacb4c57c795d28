"""threshold: all with probability >= tau (arXiv 2505.22618)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.sample import sample
from jaxdlm.rules.threshold import select_above


@method(
    paper="2505.22618",
    idea="all with probability >= tau",
    use="first: no training, one number, adapts to every row; 0.9 loses little on a calibrated model",
    avoid="an over-confident model: check the loss on your own data first",
    order=70,
)
def threshold(tau: Any = 0.9, temperature: Any = 0.0) -> Rule:
    """Fast-dLLM: every column with probability >= tau, and the surest (2505.22618)."""
    return chain(sample(temperature), select_above(tau))
