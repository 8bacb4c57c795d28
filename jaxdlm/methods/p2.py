"""p2: a fixed number per forward, chosen anew among masks and written columns (arXiv 2502.03540)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain, released
from jaxdlm.registry import method
from jaxdlm.rules.keep_best import keep_best
from jaxdlm.rules.sample import sample


@method(
    paper="2502.03540",
    idea="a fixed number per forward, chosen anew among masks and written columns",
    use="quality at a fixed number of forwards: what the model has come to doubt is masked again",
    avoid="for speed: `threshold`",
    scheduled=True,
    order=238,
)
def p2(steps: Any = None, eta: Any = 1.0, official: bool = False, temperature: Any = 0.0) -> Rule:
    """P2, self-planning: after forward i the best i K / S columns of a block are written, all others masks (2502.03540).

    steps: forwards in all; default one per column. eta: 1; 0 never masks again, above 1 masks more. official: as in its
    release for language, written columns are judged by what would be proposed there, not by their token (`keep_best`).
    """
    judge = "proposal" if argument.flag(official, "official") else "token"
    return released(chain(sample(temperature), keep_best(steps, eta, judge=judge)), official)
