"""slow_fast: threshold in a region, which slow forwards have measured (arXiv 2506.10848)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.sample import sample
from jaxdlm.rules.slow_fast import select_in_region


@method(
    paper="2506.10848",
    idea="threshold in a region, which slow forwards have measured",
    use="one long block, whose far end the model does not know yet",
    avoid="short blocks: there it is `threshold` with more forwards",
    order=235,
)
def slow_fast(
    tau: Any = 0.9, tau_min: Any = 0.3, sigma: Any = 1.0, explore: int = 6, history: int = 2, official: bool = False,
    temperature: Any = 0.0,
) -> Rule:  # fmt: skip
    """SlowFast: threshold tau; the region ends behind the last column with probability >= tau_min (2506.10848).

    tau, tau_min, sigma (columns), explore and history: 0.9, 0.3, 1.0, 6 and 2 (released). official: every slow phase has
    `explore` forwards. See `select_in_region`.
    """
    return chain(sample(temperature), select_in_region(tau, tau_min, sigma, explore, history, official=official))
