"""dparallel: all with entropy <= threshold (arXiv 2509.26488)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain, released
from jaxdlm.registry import method
from jaxdlm.rules.dparallel import select_below_entropy, shifted_neg_entropy
from jaxdlm.rules.sample import neg_entropy, sample


@method(
    paper="2509.26488",
    idea="all with entropy <= threshold",
    use="a model distilled by `scripts/train.py --recipe dparallel`",
    avoid="a model that was not: there it is another threshold",
    trained=True,
    order=110,
)
def dparallel(threshold: Any = 0.5, temperature: Any = 0.0, official: bool = False) -> Rule:
    """dParallel's decoder: every column with entropy <= threshold nats, and the lowest (2509.26488).

    official: as in the released code for Dream, entropy < threshold with 1e-8 inside the logarithm; the default is
    that for LLaDA. The paper's speed needs its post-trained weights.
    """
    measure = shifted_neg_entropy if argument.flag(official, "official") else neg_entropy
    return released(
        chain(sample(temperature, measure=measure), select_below_entropy(threshold, strict=official)), official
    )
