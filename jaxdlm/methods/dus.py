"""dus: columns far apart first, log K forwards per block (arXiv 2506.19037)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.dilated import select_dilated
from jaxdlm.rules.sample import sample


@method(
    paper="2506.19037",
    idea="columns far apart first, log K forwards per block",
    use="a fixed, small number of forwards: neighbours are not written together but in the last one",
    avoid="where `threshold` may choose; and lists, where every second column is a comma and the words are left to the end",
    order=233,
)
def dus(base: Any = 2, theta: Any = 0.0, temperature: Any = 0.0) -> Rule:
    """DUS: round t of a block writes every K / base^t-th column, ceil(log_base K) rounds (2506.19037).

    base: 2 (paper). theta: 0 (paper): columns below that probability wait for the next round; the last takes all.
    """
    return chain(sample(temperature), select_dilated(base, theta))
