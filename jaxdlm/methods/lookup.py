"""lookup: what followed the last tokens earlier in the text (arXiv 2304.04487)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.lookup import Lookup
from jaxdlm.speculative.pair import acceptance, count
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2304.04487",
    idea="what followed the last tokens earlier in the text",
    use="answers that repeat the prompt (editing, extraction, code); needs no draft",
    avoid="new text",
    lossless="yes",
    needs="",
    order=340,
)
def lookup(
    k: int = 8, ngram: int = 3, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None, guide: Any = None,
    min_p: Any = None, typical_p: Any = None,
) -> Speculation:  # fmt: skip
    """Prompt lookup: drafts what followed the last tokens where they stood before; no draft model.

    k: draft tokens (10 in the original). ngram: longest match that is looked for (3). guide: one of `jaxdlm.guides`, or
    a list of them; none. A draft token stays where the target draws the same one, so that at any temperature the text is
    that of `autoregressive` with the same seed. Raises InputError for values out of range.
    """
    k, ngram = count(k, "k"), argument.whole(1, 16)(ngram, "ngram")
    sampling = warp(temperature, top_k, top_p, guide, noise="shared", min_p=min_p, typical_p=typical_p)
    return Speculation(Lookup(k, ngram), sampling, acceptance(sampling))
