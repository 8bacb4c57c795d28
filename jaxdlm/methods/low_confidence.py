"""low_confidence: the k most probable (arXiv 2502.09992)."""

from typing import Any

from jaxdlm.core.rule import Rule
from jaxdlm.methods._llada import llada
from jaxdlm.registry import method
from jaxdlm.rules.sample import log_prob


@method(
    paper="2502.09992",
    idea="the k most probable",
    use="as the reference: one token per forward is what every other method is compared with",
    avoid=(
        "several tokens per forward (`steps` below the canvas): columns that depend on each other are written"
        " together however unsure they are; `threshold` is better at every speed"
    ),
    lossless="at one token per forward",
    scheduled=True,
    order=10,
)
def low_confidence(steps: Any = None, temperature: Any = 0.0, cfg_scale: Any = 0.0) -> Rule:
    """LLaDA's sampler: the k most probable proposals per forward, k from a uniform split of `steps` (2502.09992)."""
    return llada(steps, temperature, cfg_scale, log_prob)
