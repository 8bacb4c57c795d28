"""learn2pd: all that a trained filter calls final; ends with the text (arXiv 2509.25188)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.core.rule import Rule, chain, released
from jaxdlm.registry import method
from jaxdlm.rules.learn2pd import end_at_text, select_by_filter
from jaxdlm.rules.sample import sample


@method(
    paper="2509.25188",
    idea="all that a trained filter calls final; ends with the text",
    use="canvases much longer than the answers, with a filter trained for the model (minutes)",
    avoid="a block length that the filter was not trained for",
    trained=True,
    order=170,
)
def learn2pd(
    tau: Any = 0.96, eotp: bool = True, weights: Any = "tiny", temperature: Any = 0.0, official: bool = False
) -> Rule:
    """Learn2PD: every column whose proposal a trained filter calls final; eotp: the canvas ends with the text (2509.25188).

    weights: see `select_by_filter`; by default the filter that is shipped for `tiny`. official: the released EoTP, which
    cuts at an end-of-text token that is merely proposed.
    """
    argument.flag(official, "official")
    if not argument.flag(eotp, "eotp"):
        argument.unused("with eotp=False", official=(official, False))
    end = [end_at_text(aggressive=official)] if eotp else []
    trained = select_by_filter("tiny" if weights is None else weights, tau)
    return released(chain(sample(temperature), trained, *end), official)
