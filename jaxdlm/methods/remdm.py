"""remdm: k per forward, and a second pass over the least sure (arXiv 2503.00307)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.remdm import select_and_revisit
from jaxdlm.rules.sample import sample


@method(
    paper="2503.00307",
    idea="k per forward, and a second pass over the least sure",
    use="quality for twice the forwards, when sampling",
    avoid="for speed; at temperature 0 most of what is masked again comes back",
    scheduled=True,
    order=240,
)
def remdm(steps: Any = None, again: Any = 1, temperature: Any = 1.0) -> Rule:
    """ReMDM's form for LLaDA: S forwards of a block write, S others mask the least sure and write again (2503.00307).

    steps: forwards that write, in all; default one per column. again: columns that are masked per forward, 1 (released).
    temperature: 1 (released).
    """
    return chain(sample(temperature), select_and_revisit(steps, again))
