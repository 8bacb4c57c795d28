"""credit: threshold on logits raised by past wins (arXiv 2510.06133)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain, released
from jaxdlm.registry import method
from jaxdlm.rules.credit import add_credit, select_above_or_tied
from jaxdlm.rules.sample import sample
from jaxdlm.rules.threshold import select_above


@method(
    paper="2510.06133",
    idea="threshold on logits raised by past wins",
    use="models that name the right token long before they are sure of it",
    avoid="answers where early favourites change: credit fixes them; 4 bytes per column and word of state",
    order=100,
)
def credit(
    alpha: Any = 0.65, beta: Any = 0.7, gamma: Any = 0.2, tau: Any = 0.9, adaptive: bool = False,
    official: bool = False, temperature: Any = 0.0, sparse: bool = True,
) -> Rule:  # fmt: skip
    """CreditDecoding: tokens that keep winning gather credit and cross the threshold earlier (2510.06133).

    official: dInfer's test, which takes near-ties with the best along; its constants are 0.7, 0.8, 0.2, 0.9.
    sparse: 8 W^2 bytes of state per row, which lose nothing here; False: 4 W V.
    """
    if argument.flag(adaptive, "adaptive"):
        argument.unused("with adaptive=True", alpha=(alpha, 0.65), beta=(beta, 0.7), gamma=(gamma, 0.2))
    commit = select_above_or_tied(tau) if argument.flag(official, "official") else select_above(tau)
    credited = add_credit(alpha, beta, gamma, adaptive=adaptive, sparse=sparse)
    return released(chain(credited, sample(temperature), commit), official)
