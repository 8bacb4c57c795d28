"""llada2: all with probability > tau, or a scheduled number (arXiv 2512.15745)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.block_diffusion import select_scheduled, stop_after_block
from jaxdlm.rules.sample import sample


@method(
    paper="2512.15745",
    idea="all with probability > tau, or a scheduled number",
    use="LLaDA2 checkpoints; ends after the block that holds the end of text",
    avoid="models without block-causal attention gain nothing over `threshold`",
    order=190,
)
def llada2(steps: Any = None, tau: Any = 0.95, minimal_topk: Any = 1, temperature: Any = 0.0) -> Rule:
    """LLaDA2: all with probability > tau or a scheduled number; stops after the block with end-of-text (2512.15745)."""
    return chain(sample(temperature), select_scheduled(steps, tau, minimal_topk), stop_after_block())
