"""speculative: draft tokens that the target agrees with, and one more (arXiv 2211.17192)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative import verify
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.pair import acceptance, count, draft_info, with_draft
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2211.17192",
    idea="draft tokens that the target agrees with, and one more",
    use="a draft of the same tokenizer, a few times smaller",
    avoid="large batches that already fill the device",
    lossless="yes",
    needs="",
    order=260,
)
def speculative(
    draft: Any = "tiny-draft", k: int = 4, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
    typical: bool = False, guide: Any = None, noise: str = "own",
    min_p: Any = None, typical_p: Any = None,
) -> Any:  # fmt: skip
    """Speculative decoding: k draft tokens, one target forward, rejection sampling (arXiv 2211.17192, 2302.01318).

    draft: a loaded model with the target's tokenizer, or its name. k: draft tokens per target forward (the papers: 3
    to 10; 4). temperature, top_k, top_p: of target and draft. typical: accept what is likely enough instead (lossy,
    arXiv 2401.10774). guide: one of `jaxdlm.guides`, or a list of them, for target and draft; none. noise: "own", or
    "shared": a draft token stays where the target draws the same by the noise of plain sampling, so that the text is
    that of `autoregressive` with the same seed. Raises InputError for values out of range.
    """
    k = count(k, "k")
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    accept = verify.typical if argument.flag(typical, "typical") else acceptance(sampling)
    if typical:
        argument.unused("with typical=True", noise=(noise, "own"))
    return with_draft(
        draft, lambda lm: Speculation(DraftModel(lm.params, sampling, lm.model, 1, k), sampling, accept, draft_info(lm))
    )
