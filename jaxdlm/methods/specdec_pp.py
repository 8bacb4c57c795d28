"""specdec_pp: drafts until a trained head expects a rejection (arXiv 2405.19715)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.drafters.specdec_pp import Head, SpecDecPP, read_head, shipped_head
from jaxdlm.speculative.pair import acceptance, count, draft_info, with_draft
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2405.19715",
    idea="drafts until a trained head expects a rejection",
    use="a draft with a head trained for it and its target (minutes), where some tokens are far harder than others",
    avoid="without the head: `speculative`",
    trained=True,
    lossless="yes",
    needs="",
    order=320,
)
def specdec_pp(
    draft: Any = "tiny-draft", threshold: Any = 0.7, k_min: int = 2, k_max: int = 10, head: Any = None,
    temperature: Any = 0.0, top_k: Any = None, top_p: Any = None, guide: Any = None, noise: str = "own",
    min_p: Any = None, typical_p: Any = None,
) -> Any:  # fmt: skip
    """SpecDec++: a row drafts until a trained head expects a rejection (arXiv 2405.19715).

    Stops behind Y_k once 1 - Π_{i<k} P(Y_i accepted) > threshold, between k_min and k_max tokens, or at end of text.
    draft: a loaded model, or its name. threshold: h; 0.7 (paper). k_min, k_max: 2 and 10 (paper: 2 and 20, for texts
    of hundreds of tokens). head: a file of scripts/train.py --recipe specdec_pp, or a Head; default the one that is
    shipped with an embedded draft. Verified as `speculative`, hence lossless whatever the head predicts. guide: one
    of `jaxdlm.guides`, or a list of them, for target and draft; none. noise: "own", or "shared": a draft token stays
    where the target draws the same by the noise of plain sampling, so that the text is that of `autoregressive` with
    the same seed. Raises InputError for values out of range and for a head that was trained for another draft.
    """
    k_max = count(k_max, "k_max")
    k_min = argument.whole(1, k_max)(k_min, "k_min")
    threshold = argument.probability(threshold, "threshold")
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    trained = head if head is None or isinstance(head, Head) else argument.path(head, "head")

    def build(lm: Any) -> Speculation:
        base = DraftModel(lm.params, sampling, lm.model, 1, k_max)
        drafter = SpecDecPP(base, _head(trained, lm), threshold, k_min, lm.config.tokens.eos)
        return Speculation(drafter, sampling, acceptance(sampling), draft_info(lm))

    return with_draft(draft, build)


def _head(head: Any, lm: Any) -> Head:
    if head is None:
        return shipped_head(lm)
    made = head if isinstance(head, Head) else read_head(head, lm)
    if made.out.shape[0] != lm.config.hidden_size:
        raise InputError(
            f"the head reads hidden states of size {made.out.shape[0]}, draft {lm.name} has {lm.config.hidden_size}: "
            f"it was trained for another draft"
        )
    return made
