"""d3llm: all with entropy <= tau, in several blocks at once (arXiv 2601.07568)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.multi_block import multi_block
from jaxdlm.rules.sample import neg_entropy, sample


@method(
    paper="2601.07568",
    idea="all with entropy <= tau, in several blocks at once",
    use="long answers: later blocks begin before earlier ones are finished, with models distilled for it",
    avoid="block-causal models, and answers that fit in one block",
    trained=True,
    needs="canvas",
    order=120,
)
def d3llm(
    tau: Any = 0.5, add: Any = 0.1, temperature: Any = 0.0, early_stop: bool = True, official: bool = False
) -> Rule:
    """d3LLM's decoder: every column with entropy <= tau nats in several blocks at once (2601.07568).

    add: share of a block that is written when the next one opens. early_stop: none opens behind an end-of-text token.
    official: as released for the model's family (`multi_block`): for Dream entropy < tau; early_stop then fills the
    canvas behind the first end-of-text token while columns before it are open. The paper's speed needs its distilled
    weights.
    """
    return chain(
        sample(temperature, measure=neg_entropy), multi_block(tau, add, early_stop=early_stop, official=official)
    )
