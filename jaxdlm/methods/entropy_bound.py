"""entropy_bound: low joint entropy; the rest is noise again (arXiv 2505.24857)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.block_diffusion import select_within_entropy, stop_after_block
from jaxdlm.rules.renoise import anneal, renoise, stop_when_stable
from jaxdlm.rules.sample import neg_entropy, sample


@method(
    paper="2505.24857",
    idea="low joint entropy; the rest is noise again",
    use="models of uniform noise (DiffusionGemma), which rewrite their whole canvas",
    avoid="models with a mask token: `sdar,strategy=entropy_bounded`",
    needs="noise",
    order=245,
)
def entropy_bound(
    gamma: Any = 0.1, steps: Any = 48, t_min: Any = 0.4, t_max: Any = 0.8, kappa: Any = 0.005, history: int = 1
) -> Rule:
    """DiffusionGemma: columns of low joint entropy are kept, all others drawn again, until the canvas settles
    (2505.24857).

    steps: forwards per canvas at most. Decodes models with uniform noise; block = the canvas's length.
    """
    proposal = sample(1.0, measure=neg_entropy, tempered=True)
    again = (select_within_entropy(gamma), renoise(), stop_when_stable(steps, kappa, history))
    return chain(anneal(steps, t_min, t_max), proposal, *again, stop_after_block())
