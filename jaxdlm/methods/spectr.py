"""spectr: the best of several drafts, by optimal transport (arXiv 2310.15141)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative import verify
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.pair import MOST, acceptance, draft_info, with_draft
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2310.15141",
    idea="the best of several drafts, by optimal transport",
    use="sampling, with several drafts per round",
    avoid="greedy decoding: `speculative`",
    lossless="yes",
    needs="",
    order=290,
)
def spectr(
    draft: Any = "tiny-draft", width: int = 4, depth: int = 4, temperature: Any = 0.0, top_k: Any = None,
    top_p: Any = None, guide: Any = None, min_p: Any = None, typical_p: Any = None,
) -> Any:  # fmt: skip
    """SpecTr: `width` independent drafts of `depth` tokens, joined by K-SEQ (arXiv 2310.15141).

    width: K (the paper: up to 8). depth: L (8). One target forward reads all K · L + 1 tokens. At temperature 0 all
    drafts are the same, and one is made. guide: one of `jaxdlm.guides`, or a list of them, for target and draft; none.
    Raises InputError for values out of range.
    """
    width = argument.whole(1, 16)(width, "width")
    depth = argument.whole(1, MOST // width)(depth, "depth")
    sampling = warp(temperature, top_k, top_p, guide, min_p=min_p, typical_p=typical_p)
    width = 1 if sampling.greedy else width
    accept = acceptance(sampling, verify.k_sequence)
    return with_draft(
        draft,
        lambda lm: Speculation(
            DraftModel(lm.params, sampling, lm.model, width, depth), sampling, accept, draft_info(lm)
        ),
    )
