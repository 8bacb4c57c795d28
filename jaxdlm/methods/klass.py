"""klass: all that are sure and whose distribution has come to rest (arXiv 2511.05664)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.klass import select_converged
from jaxdlm.rules.sample import sample


@method(
    paper="2511.05664",
    idea="all that are sure and whose distribution has come to rest",
    use="an over-confident model: a low threshold, guarded by how much predictions still move",
    avoid="blocks of a few columns: nothing is written in parallel before the third forward; 4 bytes per column and word",
    order=231,
)
def klass(tau: Any = 0.9, eps: Any = 0.01, history: int = 2, official: bool = False, temperature: Any = 0.0) -> Rule:
    """KLASS: probability > tau, and a divergence < eps nats from the forward before in `history` forwards (2511.05664).

    tau, eps: 0.9 and 0.01 (released); by task the paper has tau 0.6 to 0.9, eps 0.001 to 0.015. history: 2 (paper).
    official: divergences go on from block to block; sees the whole canvas (`select_converged`).
    """
    return chain(sample(temperature), select_converged(tau, eps, history, official=official))
