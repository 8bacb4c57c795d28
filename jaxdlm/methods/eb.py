"""eb: as many as a bound on their joint entropy allows (arXiv 2505.24857)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.block_diffusion import select_within_entropy
from jaxdlm.rules.sample import log_prob, margin, neg_entropy, sample

MEASURES = {"entropy": neg_entropy, "confidence": log_prob, "margin": margin}


@method(
    paper="2505.24857",
    idea="as many as a bound on their joint entropy allows",
    use="instead of `threshold` where a bound on the loss is wanted: one number, in nats, for the whole forward",
    avoid="long blocks with gamma from short ones: many sure columns spend it together",
    order=232,
)
def eb(gamma: Any = 0.1, order: str = "entropy", temperature: Any = 0.0) -> Rule:
    """EB-Sampler on masks: the first columns whose entropies sum to at most gamma, the largest left out (2505.24857).

    gamma: nats, 0.1. order: what comes first: low "entropy", high "confidence" or high "margin". The same for uniform
    noise, where the rest is drawn again: `entropy_bound`.
    """
    argument.check_choice(order, "order", MEASURES)
    ranked = "entropy" if order == "entropy" else "score"
    return chain(sample(temperature, measure=MEASURES[order]), select_within_entropy(gamma, ranked=ranked))
