"""sdar: a scheduled number per forward of a block, or more (arXiv 2510.06303)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.block_diffusion import select_scheduled, select_within_entropy
from jaxdlm.rules.sample import log_prob, neg_entropy, sample

READ_BY = {  # strategies of SDAR -> arguments
    "low_confidence_dynamic": ("steps", "tau"),
    "low_confidence_static": ("steps",),
    "sequential": ("steps",),
    "entropy_bounded": ("gamma",),
}


@method(
    paper="2510.06303",
    idea="a scheduled number per forward of a block, or more",
    use="SDAR checkpoints, in all their released strategies",
    avoid="other models: `threshold`",
    order=220,
)
def sdar(
    steps: Any = None, strategy: str = "low_confidence_dynamic", tau: Any = 0.85, gamma: Any = 0.1,
    temperature: Any = 0.0,
) -> Rule:  # fmt: skip
    """SDAR: `steps` forwards per block; low_confidence_{static,dynamic}, sequential or entropy_bounded (2510.06303)."""
    rules = {
        "low_confidence_dynamic": select_scheduled(steps, tau),
        "low_confidence_static": select_scheduled(steps, None),
        "sequential": select_scheduled(steps, None, order="position"),
        "entropy_bounded": select_within_entropy(gamma),
    }
    argument.check_choice(strategy, "strategy", rules)
    idle = {"tau": (tau, 0.85), "gamma": (gamma, 0.1), "steps": (steps, None)}
    for name in READ_BY[strategy]:
        del idle[name]
    argument.unused(f"with strategy={strategy!r}", **idle)
    measure = neg_entropy if strategy == "entropy_bounded" else log_prob
    return chain(sample(temperature, measure=measure), rules[strategy])
