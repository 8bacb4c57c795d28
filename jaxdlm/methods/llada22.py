"""llada22: as llada21, and inserts and deletes in the block (arXiv 2602.08676)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.block_diffusion import stop_after_block
from jaxdlm.rules.indel import DELETE, INSERT, indel
from jaxdlm.rules.sample import sample


@method(
    paper="2602.08676",
    idea="as llada21, and inserts and deletes in the block",
    use="LLaDA2.2 checkpoints, whose vocabulary has words that delete and insert",
    avoid="other models: without the two words it is `llada21`, with up to as many forwards more",
    trained=True,
    order=210,
)
def llada22(
    tau_mask: Any = 0.5, tau_edit: Any = 0.0, max_post_steps: Any = 16, delete: Any = DELETE, insert: Any = INSERT,
    temperature: Any = 0.0,
) -> Rule:  # fmt: skip
    """LLaDA2.2: as LLaDA2.1, and tokens of the block go and come: two words of its vocabulary delete and insert.

    delete, insert: their ids. Technical report of LLaDA2.2 (inclusionAI/LLaDA2.X); see `indel`.
    """
    return chain(
        sample(temperature), indel(tau_mask, tau_edit, max_post_steps, delete=delete, insert=insert), stop_after_block()
    )
