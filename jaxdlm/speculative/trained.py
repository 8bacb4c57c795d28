"""Methods whose draft was trained for them: SpecDec++ and sorted drafts with exits."""

from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.speculative import verify
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.drafters.s2d import Exits, read_exits, shipped_exits
from jaxdlm.speculative.drafters.specdec_pp import Head, SpecDecPP, read_head, shipped_head
from jaxdlm.speculative.methods import _law, _with_draft, count, source
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp


def specdec_pp(
    draft: Any = "tiny-draft", threshold: Any = 0.7, k_min: int = 2, k_max: int = 10, head: Any = None,
    temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
) -> Any:  # fmt: skip
    """SpecDec++: a row drafts until a trained head expects a rejection (arXiv 2405.19715).

    Stops behind Y_k once 1 - Π_{i<k} P(Y_i accepted) > threshold, between k_min and k_max tokens, or at end of text.
    draft: a loaded model, or its name. threshold: h; 0.7 (paper). k_min, k_max: 2 and 10 (paper: 2 and 20, for texts of
    hundreds of tokens). head: a file of scripts/train.py --recipe specdec_pp, or a Head; default the one that is
    shipped with an embedded draft. Verified as `speculative`, hence lossless whatever the head says. Raises InputError
    for values out of range and for a head that was trained for another draft.
    """
    k_max = count(k_max, "k_max")
    k_min = argument.whole(1, k_max)(k_min, "k_min")
    threshold, law = argument.probability(threshold, "threshold"), warp(temperature, top_k, top_p)
    trained = head if head is None or isinstance(head, Head) else argument.path(head, "head")

    def build(lm: Any) -> Speculation:
        base = DraftModel(lm.params, law, lm.model, 1, k_max)
        drafter = SpecDecPP(base, _head(trained, lm), threshold, k_min, lm.config.tokens.eos)
        return Speculation(drafter, law, _law(law, verify.rejection), source(lm))

    return _with_draft(draft, build)


def s2d(
    draft: Any = "tiny-draft", k: int = 4, thresholds: Any = 0.5, weights: Any = None, temperature: Any = 0.0,
    top_k: Any = None, top_p: Any = None,
) -> Any:  # fmt: skip
    """S2D: every draft token leaves the draft at the first exit that is sure of it (arXiv 2407.01955).

    Exit g fires where max softmax > its threshold (temperature 1). One draft serves every target with its tokenizer.
    draft: a loaded model, or its name. k: draft tokens per target forward (released code: 5, then by a heuristic).
    thresholds: one number for all exits but the last, or one each; 0.5 (released code). weights: a file of
    scripts/train.py --recipe s2d; default the one shipped with an embedded draft. A departure from released code: above
    temperature 0 tokens are drawn from the law of their exit, so verification is lossless. Raises InputError for values
    out of range, and for exits that were trained for another draft.
    """
    k, law = count(k, "k"), warp(temperature, top_k, top_p)
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
        drafter = Exits(params, law, taus, lm.model, exits, k)
        return Speculation(drafter, law, _law(law, verify.rejection), source(lm))

    return _with_draft(draft, build)


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
