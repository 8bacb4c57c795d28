"""wino: threshold, and what a blind second look does not bear out is masked again (arXiv 2507.18578)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.sample import sample
from jaxdlm.rules.wino import select_and_verify


@method(
    paper="2507.18578",
    idea="threshold, and what a blind second look does not bear out is masked again",
    use="a low threshold on text whose columns depend on each other: what does not fit together is taken back",
    avoid="caches, and models that predict the next token (Dream); a forward reads one block more",
    needs="blind",
    order=237,
)
def wino(tau: Any = 0.6, tau_back: Any = 0.9, temperature: Any = 0.0) -> Rule:
    """WINO: p > tau is written; masked again is what its context gives less than tau_back (2507.18578).

    tau: 0.6 (0.5 to 0.7 in the paper). tau_back: 0.9 (paper). See `select_and_verify`.
    """
    return chain(sample(temperature), select_and_verify(tau, tau_back))
