"""daedal: threshold on a canvas that finds its own length (arXiv 2508.00819)."""

from typing import Any

from jaxdlm.core.rule import Rule, chain
from jaxdlm.registry import method
from jaxdlm.rules.daedal import fill_and_expand
from jaxdlm.rules.sample import sample


@method(
    paper="2508.00819",
    idea="threshold, on a canvas that finds its own length",
    use="answers of unknown length, up to max_new columns: short ones get a short canvas, hard passages more room",
    avoid="answers of a known length; it costs forwards before the first token, and no cache serves text that moves",
    needs="length",
    order=242,
)
def daedal(
    tau: Any = 0.9, low: Any = 0.1, initial: Any = 64, expand: Any = 8, look: Any = 32, enough: Any = 0.5,
    certain: Any = 0.9, temperature: Any = 0.0,
) -> Rule:  # fmt: skip
    """DAEDAL: grows the canvas until the model sees its end, then a threshold, more masks where it is unsure (2508.00819).

    tau: 0.9. low: a mask less sure than 0.1 becomes `expand`, 8. initial: 64 columns. look: end of text is looked for in
    32 columns; enough, 0.5, ends the search for a length, certain, 0.9, ends insertions. All as in the paper; max_new is
    the longest answer. See `fill_and_expand`.
    """
    rule = fill_and_expand(
        tau, low, initial=initial, expand=expand, look=look, enough=enough, certain=certain
    )  # fmt: skip
    return chain(sample(temperature), rule)
