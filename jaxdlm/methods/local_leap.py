"""local_leap: threshold, lower next to sure columns (arXiv 2510.07081)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.local_leap import select_near_anchors
from jaxdlm.rules.sample import sample


@method(
    paper="2510.07081",
    idea="threshold, lower next to sure columns",
    use="text whose sure words make their neighbours sure",
    avoid="short answers of independent items: there it is `threshold` with two numbers",
    order=90,
)
def local_leap(kappa: Any = 0.9, tau: Any = 0.75, radius: Any = 4, temperature: Any = 0.0) -> Rule:
    """LocalLeap: threshold kappa, and the lower tau within `radius` columns of a column that passes kappa (2510.07081)."""
    return chain(sample(temperature), select_near_anchors(kappa, tau, radius))
