"""d2f: all that are sure, in several blocks that follow each other (arXiv 2508.09192)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.pipeline import select_in_pipeline
from jaxdlm.rules.sample import sample


@method(
    paper="2508.09192",
    idea="all that are sure, in several blocks that follow each other",
    use="long answers, with weights distilled for it (D2F), whose blocks see the blocks before them only",
    avoid="models that were not: what they write with an incomplete left context is lost",
    trained=True,
    needs="canvas",
    order=241,
)
def d2f(tau: Any = 0.9, add: Any = 0.1, full: Any = 0.95, early_stop: bool = True, temperature: Any = 0.0) -> Rule:
    """D2F's decoder: p > tau in all open blocks; one more opens when a share `add` of the last is written (2508.09192).

    tau: 0.9. add: 0.1 (0.1 to 0.9 by task). full: 0.95: from that share of the block before on a block writes its surest
    column at least. early_stop: none opens behind an end-of-text token. The paper's speed needs its distilled weights.
    """
    return chain(sample(temperature), select_in_pipeline(tau, add, full, early_stop=early_stop))
