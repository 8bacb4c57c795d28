"""lud: lexical units, which a target that was tuned for it says at once (arXiv 2405.15208)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.drafters.lexical import Lexical, Pads, read_tuned
from jaxdlm.speculative.lexical import Units
from jaxdlm.speculative.pair import acceptance
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from jaxdlm.trained import shipped

MOST = 16


@method(
    paper="2405.15208",
    idea="the next token, and those that the model, tuned for it, is sure of at pads behind it",
    use="a target that may be tuned, texts of fixed phrases; a larger `beta` is nearer to its own text",
    avoid="where the text must be the untuned target's: `ppd`, `eagle2`",
    trained=True,
    lossless="no",
    needs="",
    order=334,
)
def lud(
    weights: Any = "tiny-ar", k: Any = None, beta: Any = 0.9, halt: bool = True, verify: bool = False,
    temperature: Any = 0.0, top_k: Any = None, top_p: Any = None, guide: Any = None,
) -> Speculation:  # fmt: skip
    """Lexical unit decoding: y_0 = argmax P_0, and y_j = argmax P_j at pad j while max P_j ≥ beta (arXiv 2405.15208).

    Lossy: what the pads say is committed as it is. weights: a file of scripts/train.py --recipe lud, or the name of an embedded
    target; its updates are added to the target's weights. k: pads per forward, 0 to 16; none: as many as it was tuned with (the
    paper does not say, 3). beta: 0 to 1; 0.9 (swept in the paper). halt: a unit also ends before a token that repeats the one
    before it. verify: the unit is read again as text before it is committed, and cut where the tuned target says another
    token, so that at any temperature the text is that of `autoregressive` on the tuned target with the same seed; temperature,
    top_k and top_p mean something there alone. guide: one of `jaxdlm.guides`, or a list of them; none. Raises InputError for
    values out of range and for weights that were tuned of another target. There is no released code; departures from the
    paper: repetition is that of ids, and low-rank updates and a row for the pad in the place of a whole new model.
    """
    made = read_tuned(shipped(weights, "lud"))
    k = made.k if k is None else argument.whole(0, MOST)(k, "k")
    beta, halt = argument.probability(beta, "beta"), argument.flag(halt, "halt")
    pads = (made.pad, made.update, made.vocab, made.made_for)
    if argument.flag(verify, "verify"):
        sampling = warp(temperature, top_k, top_p, guide, noise="shared")
        return Speculation(Lexical(*pads, beta, halt, k), sampling, acceptance(sampling))
    why = "without verify, where units are the likeliest tokens"
    argument.unused(why, temperature=(temperature, 0.0), top_k=(top_k, None), top_p=(top_p, None))
    return Speculation(Pads(*pads), warp(guide=guide), search=Units(beta, halt, k))
