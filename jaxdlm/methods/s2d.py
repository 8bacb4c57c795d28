"""s2d: as speculative, tokens leave the draft at the first sure exit (arXiv 2407.01955)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.s2d import Exits, read_exits, shipped_exits
from jaxdlm.speculative.pair import acceptance, count, draft_info, with_draft
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


@method(
    paper="2407.01955",
    idea="as speculative, tokens leave the draft at the first sure exit",
    use="one deep draft for several targets, its exits trained (minutes)",
    avoid="drafts of two layers: one layer knows too little",
    trained=True,
    lossless="yes",
    needs="",
    order=330,
)
def s2d(
    draft: Any = "tiny-draft", k: int = 4, thresholds: Any = 0.5, weights: Any = None, temperature: Any = 0.0,
    top_k: Any = None, top_p: Any = None, guide: Any = None, noise: str = "own",
    min_p: Any = None, typical_p: Any = None,
) -> Any:  # fmt: skip
    """S2D: every draft token leaves the draft at the first exit that is sure of it (arXiv 2407.01955).

    Exit g fires where max softmax > its threshold (temperature 1). One draft serves every target with its tokenizer.
    draft: a loaded model, or its name. k: draft tokens per target forward (released code: 5, then by a heuristic).
    thresholds: one number for all exits but the last, or one each; 0.5 (released code). weights: a file of
    scripts/train.py --recipe s2d; default the one shipped with an embedded draft. A departure from released code:
    above temperature 0 tokens are drawn from the distribution of their exit, so verification is lossless. guide: one
    of `jaxdlm.guides`, or a list of them, for target and draft; none. noise: "own", or "shared": a draft token stays
    where the target draws the same by the noise of plain sampling, so that the text is that of `autoregressive` with
    the same seed. Raises InputError for values out of range, and for exits that were trained for another draft.
    """
    k = count(k, "k")
    sampling = warp(temperature, top_k, top_p, guide, noise, min_p=min_p, typical_p=typical_p)
    if isinstance(thresholds, list | tuple):
        stated = argument.items(thresholds, "thresholds", argument.probability)
    else:
        stated = (argument.probability(thresholds, "thresholds"),)
    file = None if weights is None else argument.path(weights, "weights")

    def build(lm: Any) -> Speculation:
        params, exits = shipped_exits(lm) if file is None else read_exits(file, lm)
        taus = stated * (len(exits) - 1) if len(stated) == 1 else stated
        if len(taus) != len(exits) - 1:
            raise InputError(
                f"thresholds has {len(taus)} numbers: must be one, or one for each of {len(exits) - 1} exits"
            )
        drafter = Exits(params, sampling, taus, lm.model, exits, k)
        return Speculation(drafter, sampling, acceptance(sampling), draft_info(lm))

    return with_draft(draft, build)
