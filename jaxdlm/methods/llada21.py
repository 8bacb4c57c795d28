"""llada21: as llada2, and corrects what is written in the block (arXiv 2602.08676)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.block_diffusion import stop_after_block
from jaxdlm.rules.edit import edit
from jaxdlm.rules.sample import sample


@method(
    paper="2602.08676",
    idea="as llada2, and corrects what is written in the block",
    use="LLaDA2.1 checkpoints, which were trained to correct written tokens",
    avoid="other models: they were not trained to judge written tokens",
    trained=True,
    order=200,
)
def llada21(
    tau_mask: Any = 0.7, tau_edit: Any = 0.5, max_post_steps: Any = 16, num_to_transfer: Any = 1, temperature: Any = 0.0
) -> Rule:
    """LLaDA2.1: writes all with probability > tau_mask, and rewrites what it has come to doubt (2602.08676).

    The defaults are its Quality preset; tau_mask = 0.5, tau_edit = 0 is Speed.
    """
    rule = edit(tau_mask, tau_edit, max_post_steps, num_to_transfer)
    return chain(sample(temperature), rule, stop_after_block())
