"""saber: threshold that falls as the text grows sure; the most doubtful are masked again (arXiv 2510.18165)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.backtrack import select_and_backtrack
from jaxdlm.rules.sample import sample


@method(
    paper="2510.18165",
    idea="all above the mean confidence so far; the most doubtful are masked again",
    use="code and other text whose first tokens are the hard ones",
    avoid="several blocks: each begins slowly again, and finished ones are not masked again",
    order=236,
)
def saber(least: Any = 2, mu: Any = 8, official: bool = False, temperature: Any = 0.0) -> Rule:
    """Saber: p above the mean of what was written, at least n; an eighth of these is masked again (2510.18165).

    least: n, 2. mu: 8: one column of 8 is masked again. Both as released. official: the mean counts columns that were
    masked again (`select_and_backtrack`).
    """
    return chain(sample(temperature), select_and_backtrack(least, mu, official=official))
