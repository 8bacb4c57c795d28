"""rcr: everything, then all but a growing number masked again (arXiv 2508.13148)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.keep_best import keep_best
from jaxdlm.rules.sample import sample


@method(
    paper="2508.13148",
    idea="everything, then all but a growing number masked again",
    use="as `low_confidence` with few steps, where a token that was doubtful when written may be drawn again",
    avoid="for speed: `threshold`",
    scheduled=True,
    order=239,
)
def rcr(steps: Any = None, temperature: Any = 0.0) -> Rule:
    """RCR: the i K / S tokens that were written with the highest probability stay, all others are masked (2508.13148).

    steps: forwards in all; default one per column. A column's probability is that of the forward which wrote it.
    """
    return chain(sample(temperature), keep_best(steps, judge="record"))
